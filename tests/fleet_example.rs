//! The example of a fleet: two processes and a Redis that is killed twice under load; no request fails.

use std::process::Command;

#[path = "support/redis.rs"]
mod redis;

#[test]
fn its_story_ends_well() {
    if !redis::wanted() {
        return;
    }
    let test = std::env::current_exe().expect("this program");
    let example = test.ancestors().nth(2).expect("the target's folder").join("examples/fleet");
    assert!(example.exists(), "{} is missing: cargo build --example fleet --all-features", example.display());
    let output = Command::new(example).output().expect("it runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("No request failed."), "{said}");
}
