//! The text of `COST_ANALYSIS.md`.

/// The whole document.
#[must_use]
pub fn document() -> String {
    String::new()
}
