//! What the fuzz targets share: the laws that they hold the parsers to, and a count of the memory taken.

pub mod laws;

#[global_allocator]
static GAUGE: laws::gauge::Counting = laws::gauge::Counting;
