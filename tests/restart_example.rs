//! The example of a restart: a service with a file level is killed, and pays no call again.

use std::process::Command;

#[test]
fn its_story_ends_well() {
    let test = std::env::current_exe().expect("this program");
    let example = test.ancestors().nth(2).expect("the target's folder").join("examples/restart");
    assert!(example.exists(), "{} is missing: cargo build --example restart --all-features", example.display());
    let output = Command::new(example).output().expect("it runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("calls paid after the restart: 0"), "{said}");
}
