//! Bringing databases back.

pub mod place;
