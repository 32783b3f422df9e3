//! Machines that nobody here owns, from the command line.

use serde_json::Value;

use crate::support::{own_fixture, plimsoll};

const DESKTOP: &str = "rtx3060+ddr4-3200x2:64GiB+nvme4";

fn model() -> String {
    own_fixture("llama-rope3-tied").join("model-bf16.gguf").to_str().unwrap().to_owned()
}

#[test]
fn a_plan_for_another_machine_says_for_which() {
    let output = plimsoll(&["plan", "-m", &model(), "--on", DESKTOP]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with(&format!("on {DESKTOP}, some ")), "{text}");
    assert!(text.contains("gpu:0 GeForce RTX 3060 12 GB: 295.2 GB/s, link 27.4 GB/s"), "{text}");
    assert!(text.contains("the forecast is for parts of the catalogue") && !text.contains("plimsoll probe"), "{text}");

    let output = plimsoll(&["plan", "-m", &model(), "--on", DESKTOP, "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["on"]["name"], DESKTOP);
    assert_eq!(plan["on"]["machine"]["gpus"][0]["read"]["source"], "catalogue");
    assert!(plan["on"]["price_usd"].as_f64().unwrap() > 0.0 && plan["forecast"]["measured"] == false);
    // This machine is nobody else's.
    let here: Value = serde_json::from_slice(&plimsoll(&["plan", "-m", &model(), "--json"]).stdout).unwrap();
    assert!(here["on"].is_null());
}

#[test]
fn the_choice_stands_beside_simple_placements() {
    let output = plimsoll(&["plan", "-m", &model(), "--on", DESKTOP, "--compare"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the planner's choice") && text.contains("by layer (-ngl)"), "{text}");
    let output = plimsoll(&["plan", "-m", &model(), "--on", DESKTOP, "--compare", "--json"]);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seconds: Vec<f64> = rows.as_array().unwrap().iter().map(|row| row["seconds"].as_f64().unwrap()).collect();
    assert!(rows[0]["chosen"] == true && seconds.iter().all(|other| seconds[0] <= other * (1.0 + 1e-9)), "{rows}");
}

#[test]
fn words_that_are_no_machine_are_usage_errors() {
    for (machine, expected) in [
        ("rtx3600+ddr4-3200x2:64GiB+nvme4", "did you mean rtx3060?"),
        ("t4+ddr4-3200x2:64GiB+nvme4", "t4 (Tesla T4) is sm_75, too old"),
        ("nonsense", "is not in the catalogue"),
        ("", "a part is missing"),
    ] {
        let output = plimsoll(&["plan", "-m", &model(), "--on", machine]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.starts_with("error: ") && told.contains(expected) && told.contains("\n\nhint: "),
            "{machine}: {told}"
        );
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{machine}");
    }
}

#[test]
fn advice_is_cheapest_first_and_nothing_is_said_to_be_nothing() {
    let output = plimsoll(&["advise", "-m", &model(), "--budget-tps", "5", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let prices: Vec<f64> = rows.as_array().unwrap().iter().map(|row| row["price_usd"].as_f64().unwrap()).collect();
    assert!(prices.len() == 5 && prices.is_sorted(), "{rows}");
    for (budget, code, expected) in
        [("1e12", 4, "nothing in the catalogue decodes"), ("-1", 2, "is no rate"), ("0", 2, "is no rate")]
    {
        let output = plimsoll(&["advise", "-m", &model(), "--budget-tps", budget]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(expected) && told.contains("\n\nhint: "), "{budget}: {told}");
        assert_eq!(output.status.code(), Some(code), "{budget}");
    }
}

#[test]
fn the_catalogue_is_listed_with_its_sources() {
    let text = plimsoll(&["hardware"]).stdout;
    let text = String::from_utf8_lossy(&text);
    for part in ["rtx3060", "ddr4-3200x2", "nvme4", "sm_75"] {
        assert!(text.contains(part), "{text}");
    }
    let parts: Value = serde_json::from_slice(&plimsoll(&["hardware", "--json"]).stdout).unwrap();
    for card in parts["gpus"].as_array().unwrap() {
        let sources = ["capability", "memory_bytes", "bytes_per_s", "multiprocessors", "clock_hz", "pcie"];
        assert!(sources.iter().all(|figure| !card[figure]["source"].as_str().unwrap().is_empty()), "{card}");
    }
}
