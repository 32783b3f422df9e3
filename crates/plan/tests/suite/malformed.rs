//! Every malformed profile ends in one typed error with its place.

#![allow(clippy::disallowed_methods, reason = "tests read files and clocks; the crate does not")]

use std::time::{Duration, Instant};

use plan::profile::parse;
use plan::testing::{MalformedProfile, Stage, malformed_profiles};
use plan::{Refusal, plan};

use crate::common;

/// The message that a profile ends in, and the place it names.
fn refused(case: &MalformedProfile) -> (String, Option<(u32, u32)>) {
    let profile = match (parse(&case.text, "p.yaml"), case.stage) {
        (Err(error), Stage::Parse) => return (error.to_string(), error.position()),
        (Ok(_), Stage::Parse) => return ("it was read".to_owned(), None),
        (Err(error), Stage::Plan) => return (format!("it was refused too early: {error}"), None),
        (Ok(profile), Stage::Plan) => profile,
    };
    let model = common::inventory("smollm2-135m-q4_1");
    match plan(&profile, &model, &common::laptop()) {
        Ok(_) => ("it was planned".to_owned(), None),
        Err(Refusal::Profile(error)) => (error.to_string(), error.position()),
        Err(Refusal::Experts(error)) => (error.to_string(), None),
        Err(Refusal::DoesNotFit(refusal)) => match &refusal.origin {
            plan::profile::Origin::Profile(mark) => (refusal.to_string(), Some((mark.line, mark.column))),
            _ => (refusal.to_string(), None),
        },
    }
}

#[test]
fn every_malformed_profile_is_refused_with_its_place() {
    let cases = malformed_profiles();
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut failures = Vec::new();
    let mut worst = (Duration::ZERO, "");
    for case in &cases {
        let start = Instant::now();
        let (message, position) = refused(case);
        worst = worst.max((start.elapsed(), case.name));
        let (line, column) = case.position;
        if !message.contains(case.expected) || position != Some(case.position) {
            let expected = case.expected;
            failures
                .push(format!("{}: expected {line}:{column} {expected:?}, found {position:?}\n{message}", case.name));
        }
        if message.len() > 2000 || !message.contains("\n\nhint: ") {
            failures.push(format!("{}: too long, or without a hint:\n{message:.600}", case.name));
        }
    }
    println!("{} profiles; the slowest took {:?} ({})", cases.len(), worst.0, worst.1);
    assert!(failures.is_empty(), "{}\n{} failures", failures.join("\n\n"), failures.len());
}
