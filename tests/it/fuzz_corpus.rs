//! What fuzzing has kept: every input in fuzz/corpus, held to the same laws as there.

#[path = "../../fuzz/src/laws/mod.rs"]
pub(crate) mod laws;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Runs the inputs of one target; tells how many there were, and which of them break a law.
fn run(name: &str, check: laws::Check) -> (usize, Vec<PathBuf>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let breaks = |input: &PathBuf| {
        let bytes = std::fs::read(input).unwrap();
        catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err()
    };
    (inputs.len(), inputs.into_iter().filter(breaks).collect())
}

#[test]
fn every_input_that_was_kept_keeps_the_laws() {
    let mut broken = Vec::new();
    for (name, check) in laws::ALL {
        let (inputs, wrong) = run(name, check);
        assert!(inputs >= 5, "{name}: {inputs} inputs");
        broken.extend(wrong);
    }
    assert!(broken.is_empty(), "what is wrong with each is told above: {broken:#?}");
}

#[test]
fn every_target_has_its_laws_and_its_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in laws::ALL {
        let program = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("laws::{name}::check(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    assert_eq!(std::fs::read_dir(root.join("fuzz_targets")).unwrap().count(), laws::ALL.len());
    assert_eq!(manifest.matches("[[bin]]").count(), laws::ALL.len());
}

/// The laws about memory would hold of anything if it were not counted.
#[test]
fn memory_is_counted() {
    let (kept, taken) = laws::gauge::peak(|| {
        drop(vec![1_u8; 3 << 20]);
        vec![1_u8; 1 << 20]
    });
    assert_eq!(kept.len(), 1 << 20);
    assert!((3 << 20..4 << 20).contains(&taken), "{taken}");
}
