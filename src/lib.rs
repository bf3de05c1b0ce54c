//! litesnap backs up every SQLite database on a host to object storage, and brings any of it back.

pub mod clock;
pub mod error;
pub mod stamps;
pub mod store;
