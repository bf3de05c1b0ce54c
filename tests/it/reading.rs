//! Reading: what is stored is what a commit left, what cannot be read is named, and every change is seen.

mod changes; // stamps: each kind of change is seen, and what is no change is not stored
mod consistent; // live foreign writers, all formats of files, crashed writers
mod refused; // what cannot be read now is named, stops nobody else, and is stored later
mod strange; // files that are no databases, and one database with several names
