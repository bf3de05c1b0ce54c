//! litesnap backs up every SQLite database on a host to object storage.
//!
//! Modules in the order data flows:
//! [`config`] → [`pattern`] → [`scan`] → [`detect`] → [`watch`] → [`snapshot`] → [`object`] → [`upload`] → [`record`] →
//! [`state`], put together by [`cycle`] and [`replicate`].
//!
//! A process that has one of the databases open itself must not back it up: closing any descriptor of a file drops all POSIX
//! locks that the process has on it, SQLite's among them. Embed the loop in a supervisor (`examples/embed.rs`).
//!
//! One pass over a folder of databases, into memory:
//!
//! ```
//! use std::sync::Arc;
//! use litesnap::{clock::SystemClock, config::{Config, parse_patterns}, control::Control, cycle::Silent};
//! use litesnap::{layout::Template, replicate::Replicator, store::StoreOptions};
//!
//! let dir = tempfile::tempdir()?;
//! rusqlite::Connection::open(dir.path().join("a.db"))?.execute_batch("CREATE TABLE t(x)")?;
//!
//! let config = Config {
//!     patterns: parse_patterns(&["*.db"], dir.path())?,
//!     template: Template::parse("{{hostname}}/{{path}}")?,
//!     host: "web-1".into(),
//!     state_dir: dir.path().join("state"),
//!     ..Config::new(StoreOptions::new("memory://"))
//! };
//! let (clock, control) = (Arc::new(SystemClock), Arc::new(Control::default()));
//! let mut replicator = Replicator::open(config, &Vec::new(), clock, control, Arc::new(Silent))?;
//! let report = replicator.run_cycle(false);
//! assert_eq!((report.databases, report.stored, report.exit_code()), (1, 1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod config;
pub mod plan;
pub mod replicate;
pub mod settings;

pub mod pattern;
pub mod scan;
pub mod stamps;

pub mod backlog;
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
mod window;

pub mod access;
pub mod catalogue;
pub mod inventory;
mod listing;
pub mod names;
pub mod prune;
pub mod retention;
mod scratch;
pub mod verify;

pub mod restore;
pub mod upkeep;

pub mod cost;
pub mod explain;

pub mod cycle;
mod engine;
mod first_hour;
mod gone;
pub mod heartbeat;
pub mod heartbeats;
pub mod metrics;
pub mod monitor;
pub mod notify;
pub mod record;
pub mod report;
pub mod server;
pub mod status;

pub mod budget;
pub mod clock;
pub mod control;
pub mod error;
pub mod fs;

#[doc(hidden)]
pub mod fuzzing;
