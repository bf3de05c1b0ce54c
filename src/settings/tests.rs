//! Tables over whole files.
