//! The README's first command, with the binary under test instead of a release build.

use std::path::Path;
use std::process::Command;

use crate::support::{SMOLLM2, plimsoll, real_model};

#[test]
fn the_quickstart_answers_in_english() {
    if real_model(SMOLLM2, "the_quickstart_answers_in_english").is_none() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/quickstart.sh");
    let mut command = Command::new(script);
    command.env("PLIMSOLL", env!("CARGO_BIN_EXE_plimsoll"));
    let output = command.output().unwrap();
    let (answer, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(answer.contains("Paris"), "{answer}");
    assert!(told.contains("disk"), "no tier was used but RAM: {told}");
}

#[test]
fn a_tight_ceiling_gives_the_same_text() {
    let Some(model) = real_model(SMOLLM2, "a_tight_ceiling_gives_the_same_text") else { return };
    let text = |profile: &str| {
        let model = model.to_str().unwrap();
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(profile);
        let profile = profile.to_str().unwrap();
        let prompt = "Name three rivers of Europe.";
        let output = plimsoll(&["run", "-m", model, "--profile", profile, "--temp", "0", "-n", "24", "-p", prompt]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let tight = text("quickstart.yaml");
    assert!(tight.len() > 20, "{tight}");
    assert_eq!(tight, text("cpu-only.yaml"));
}
