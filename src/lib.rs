//! litesnap backs up every SQLite database on a host to object storage.
//!
//! Modules in the order data flows:
//! [`config`] → [`pattern`] → [`scan`] → [`detect`] → [`watch`] → [`snapshot`] → [`object`] → [`upload`] → [`record`] →
//! [`state`], put together by [`cycle`] and [`replicate`].

pub mod config;
pub mod replicate;

pub mod pattern;
pub mod scan;
pub mod stamps;

pub mod detect;
pub mod state;
pub mod watch;

pub mod header;
pub mod snapshot;

pub mod content;
mod digest;
pub mod layout;
pub mod object;
pub mod timestamp;

pub mod store;
pub mod upload;

pub mod cycle;
pub mod record;
pub mod report;

pub mod budget;
pub mod clock;
pub mod control;
pub mod error;
pub mod fs;
