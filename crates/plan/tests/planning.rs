//! Plans over recorded inventories.

mod common;

use plan::profile::parse;
use plan::{Bytes, Profile, Refusal, Tier, plan};

#[test]
fn a_ceiling_below_the_model_leaves_the_rest_on_disk() {
    let model = common::inventory("smollm2-135m-q4_1");
    let profile = parse("version: 1\ntiers: { ram: { memory: 90MiB }, disk: {} }\n", "p.yaml").unwrap();
    let plan = plan(&profile, &model, &common::laptop()).unwrap();
    assert!(plan.tier(Tier::Ram).unwrap().bytes() <= Bytes(90 << 20));
    assert!(plan.tier(Tier::Disk).unwrap().bytes() > Bytes::ZERO);
    assert!(plan.staging.slots > 0);
}

#[test]
fn a_ceiling_that_cannot_hold_the_model_is_refused_with_its_sum() {
    let model = common::inventory("smollm2-135m-q4_1");
    let profile = parse("version: 1\ntiers: { ram: { memory: 60MiB } }\n", "p.yaml").unwrap();
    let Err(Refusal::DoesNotFit(refusal)) = plan(&profile, &model, &common::laptop()) else { panic!("planned") };
    assert!(refusal.needed() > refusal.ceiling);
    assert!(refusal.to_string().contains("p.yaml:2:25"), "{refusal}");
}

#[test]
fn the_automatic_profile_uses_all_that_a_desktop_has() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let machine = common::desktop(Bytes(64 << 30));
    let plan = plan(&Profile::automatic(&machine), &model, &machine).unwrap();
    for tier in [Tier::Gpu(0), Tier::Ram, Tier::Disk] {
        assert!(plan.tier(tier).unwrap().bytes() > Bytes::ZERO, "{tier}");
    }
}
