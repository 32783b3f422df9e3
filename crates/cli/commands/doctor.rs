//! `plimsoll doctor`: whether this machine lets plimsoll do its best, and what helps where it does not.

use std::fmt::Write as _;
use std::path::Path;

use ::probe::{Check, Verdict, examine};

use crate::args::DoctorArgs;
use crate::failure::Unwell;
use crate::{open, show};

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let path = args.model.as_deref().unwrap_or(Path::new("."));
    let checks = examine(path, open::cache_folder().as_deref());
    if args.json {
        show::json(&checks)?;
    } else {
        show::product(&page(&checks))?;
    }
    match checks.iter().map(|check| check.verdict).max() {
        None | Some(Verdict::Pass) => Ok(()),
        Some(Verdict::Warn) => Err(Unwell { fails: false }.into()),
        Some(Verdict::Fail) => Err(Unwell { fails: true }.into()),
    }
}

fn page(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { name, verdict, found, remedy } in checks {
        let verdict = match verdict {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let _ = writeln!(text, "{verdict}  {name:<width$}  {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "      {:<width$}  → {remedy}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_under_what_it_is_for() {
        let check = |name, verdict, remedy: Option<&str>| Check {
            name,
            verdict,
            found: "found".into(),
            remedy: remedy.map(str::to_owned),
        };
        let text = page(&[check("a", Verdict::Pass, None), check("bcd", Verdict::Fail, Some("do this"))]);
        assert_eq!(text, "PASS  a    found\nFAIL  bcd  found\n           → do this\n");
    }
}
