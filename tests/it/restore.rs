//! `litesnap restore`: what comes back, what is refused, and what a target is at every moment.

mod damage;
mod drill;
mod formats;
mod refusals;
mod remote;
mod round_trip;
mod scale;
