//! Integration tests: one module per topic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests rename and wait as they need")]
#![allow(dead_code, reason = "support that not every topic uses")]

mod flaky; // support: a store that fails on demand
mod place; // support: a folder to test in and the real binary
mod s3_server; // support: an S3 server in the test process, with faults

mod faults; // a store or state that fails, call by call: what is recorded, what is stored again, what is bounded
mod replicate; // the main path through the command line
mod s3; // the real binary against an S3 server that fails, and signals in mid-upload
mod store; // stores by themselves: conformance, faults, secrets
