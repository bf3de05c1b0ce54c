//! Integration tests: one module per topic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests rename and wait as they need")]
#![allow(dead_code, reason = "support that not every topic uses")]

mod big_s3; // support: an S3 server in memory, for a million objects
mod fault_shim; // support: single file calls of the real binary that fail, or are recorded
mod flaky; // support: a store that fails on demand
mod foreign; // support: other people's SQLite, in processes of its own, and a folder seen from outside
mod library; // support: cycles of the library under a clock that stands still
mod place; // support: a folder to test in and the real binary
mod s3_server; // support: an S3 server in the test process, with faults
mod ways; // support: both ways of reading, and databases old enough for the plain one

mod cmdline; // the command line: bad input, flags, dry run, output
mod completions; // completions and manual pages: all there is, readable
mod configure; // the configuration file: precedence, refusals with file and line, check, print, schema, the example
mod crash; // SIGKILL at any moment: nothing lost, nothing left behind
mod demo; // litesnap demo: a true story, within its folder
mod explain; // explain: what backing up would take and cost, told before the first upload
mod fault_commands; // every file call of the other commands fails, one after the other
mod fault_day; // a day of cycles under a fake clock beside a model; clocks that jump
mod fault_files; // every file call of a replicating process fails, one after the other
mod fault_images; // what a power loss may leave of state and store, at any moment of a run
mod fault_scan; // the calls of a scan fail, one after the other
mod fault_state; // any page of state.db, and of its log, damaged or missing
mod fault_store; // every request of the commands that list, verify, restore and prune fails, one after the other
mod faults; // a store or state that fails, call by call: what is recorded, what is stored again, what is bounded
mod fuzz_corpus; // what fuzzing has kept, held to the laws of the fuzz targets
mod gone; // databases gone from their host: tombstones, coming back; notes and requests in the state
mod keys; // which key a database gets, clashes, changed templates
mod limits; // what no reader from outside can catch, and the price of reading: shown, so that nobody calls it protected
mod list; // list and show: what is stored, told; listings of large stores
mod list_folder; // listing a folder: foreign names, links, what cannot be read; keys that no client can list
mod no_trace; // reading changes nothing about a database, and what it may not do
mod prune; // what the rules let go is gone, nothing else is; failing and interrupted deletes; purge
mod reading; // what is stored is what a commit left; what cannot be read is named; every change is seen
mod regress; // one test per defect there was
mod replicate; // the main path through the command line
mod restore; // what comes back, what is refused, what a target is at every moment
mod restore_attack; // paths and folders that would make a restore write somewhere else
mod restore_full; // a target that is full, read-only or goes away: refused, and nothing is left
mod s3; // the real binary against an S3 server that fails, and signals in mid-upload
mod secrets; // nothing secret in what is logged, printed or kept, however a store fails
mod state; // what is remembered: damage, cooldown, refresh, clocks, deletions
mod status; // how backups fare: from the state, and from heartbeats in a store
mod store; // stores by themselves: conformance, faults, secrets
mod telling; // whom the loop tells how it fares: HTTP, heartbeats, the service manager; when health turns
mod torture; // foreign writers and litesnaps, killed at random: every snapshot a commit, none stale, none lost
mod upkeep; // beside the loop: pruning and verifying on schedules of their own
mod verify; // whether what is stored could be restored: every damage, markers, requests to the loop

/// Counts, for the laws about memory.
#[global_allocator]
static GAUGE: fuzz_corpus::laws::gauge::Counting = fuzz_corpus::laws::gauge::Counting;
