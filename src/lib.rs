//! litesnap backs up every SQLite database on a host to object storage, and brings any of it back.

pub mod clock;
pub mod content;
mod digest;
pub mod error;
pub mod pattern;
pub mod scan;
pub mod header;
pub mod layout;
pub mod object;
pub mod stamps;
pub mod timestamp;
pub mod store;
