//! Integration tests: one module per topic.

mod s3_server;
mod store;
