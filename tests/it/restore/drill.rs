//! The disaster drill of docs/DISASTER_DRILL.md, step by step as it stands there.

use std::process::{Command, Stdio};

use crate::place::Place;

#[test]
fn the_documented_drill_works() {
    let text = include_str!("../../../docs/DISASTER_DRILL.md");
    let mut script = String::from("set -euo pipefail\n");
    let mut steps = 0;
    for block in text.split("```sh\n").skip(1) {
        script.push_str(block.split("```").next().unwrap());
        steps += 1;
    }
    assert!(steps >= 6, "the drill has steps");
    let place = Place::new();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_litesnap"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let out = Command::new("bash")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", path)
        .env("HOME", place.path())
        .current_dir(place.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("the drill is passed"), "{said}");
}
