//! What limits a plan, what moving costs, and the page that shows both.

use plan::profile::parse;
use plan::report::{explain_on, html, why};
use plan::{Bytes, Inventory, Machine, Plan, Profile, Term, Tier, plan};

use crate::common;

/// A model of 1B with half as much RAM as it has weights.
fn pressed() -> (Profile, Inventory, Machine, Plan) {
    let text = "version: 1\ntiers: { ram: { memory: 400MiB }, disk: {} }\ncontext: { tokens: 512 }\n";
    let profile = parse(text, "p.yaml").expect("a profile");
    let (model, machine) = (common::inventory("llama-1b-q4_k_m"), common::laptop());
    let plan = plan(&profile, &model, &machine).expect("a plan");
    (profile, model, machine, plan)
}

#[test]
fn more_of_what_binds_is_worth_something() {
    let (profile, model, machine, plan) = pressed();
    let why = why(&plan, &profile, &model, &machine, None);
    assert_eq!(why.decode.bottleneck(), Term::Disk);
    let spent: f64 = why.decode.terms.iter().sum();
    assert!((spent / why.decode.seconds - 1.0).abs() < 1e-9 && why.decode.disk_s > 0.0, "{why:?}");
    let [margin] = why.margins[..] else { panic!("{why:?}") };
    assert_eq!((margin.tier, margin.more.0 % Bytes::GIB.0), (Tier::Ram, 0));
    assert!(margin.decode_tokens_per_s > plan.forecast.decode_tokens_per_s, "{margin:?}");
    let text = why.text();
    assert!(text.contains("waiting for the drive") && text.contains("more in ram: decode +"), "{text}");
    // Half of a slot's matrices start within a page; of reads of 2 MiB that is little.
    let gain = why.prepared.expect("what a copy would save");
    assert!(gain.saved < gain.reads && gain.share() < 0.005, "{gain:?}");
    assert!(!text.contains("fewer bytes from disk") && !text.contains("+0.000"), "{text}");
}

#[test]
fn what_has_room_is_not_missed() {
    let text = "version: 1\ntiers: { ram: { memory: 12GiB }, disk: {} }\n";
    let profile = parse(text, "p.yaml").expect("a profile");
    let (model, machine) = (common::inventory("llama-1b-q4_k_m"), common::laptop());
    let plan = plan(&profile, &model, &machine).expect("a plan");
    let why = why(&plan, &profile, &model, &machine, None);
    assert!(why.prepared.is_none() && why.margins.is_empty() && why.decode.bottleneck() == Term::Weights, "{why:?}");
}

#[test]
fn moving_a_tensor_has_its_price_in_both_directions() {
    let (_, model, machine, plan) = pressed();
    let told = |home: Tier| {
        let unit = model.iter().find(|(id, unit)| plan.home(*id) == home && unit.layer.is_some() && unit.rows > 1);
        let name = &model.tensor_of(unit.expect("a matrix").1).name;
        explain_on(&plan, &model, &machine, name, None).expect("a story")
    };
    let speeds = |text: &str, place: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(place)).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    };
    let (from_ram, from_disk) = (told(Tier::Ram), told(Tier::Disk));
    let ((before, after), (slow, fast)) = (speeds(&from_ram, "on disk"), speeds(&from_disk, "in ram"));
    assert!(after < before && fast > slow, "{from_ram}\n{from_disk}");
    assert!(from_disk.contains("would have to leave"), "{from_disk}");
}

#[test]
fn the_page_is_whole_and_escapes_what_files_say() {
    let (profile, mut model, machine, plan) = pressed();
    model.name = "<script>alert(\"x\")</script>&\u{7}".to_owned();
    let why = why(&plan, &profile, &model, &machine, None);
    let page = html(&plan, &model, &machine, &why);
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(
        page.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;") && !page.contains("<script"),
        "escaped"
    );
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="), "nothing is fetched");
    for tag in ["div", "span", "ul", "li", "g", "svg", "p", "h2"] {
        let count = |text: &str| page.matches(text).count();
        let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
        assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
    }
    for part in ["<b>ram</b>", "<b>disk</b>", "layer 15, feed-forward", "waiting for the drive", "more in ram"] {
        assert!(page.contains(part), "{part}");
    }
}
