//! The catalogue of `configs/hardware/`, machines named from it, and what they are taken to reach.

#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

use std::path::Path;

use plan::hardware::{Build, Catalogue, NoAdvice, Text, advise, most_tokens_per_s};
use plan::{Bytes, Machine, Profile, Source, plan};

use crate::common;

fn catalogue() -> Catalogue {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hardware");
    let files = ["gpus.yaml", "memories.yaml", "drives.yaml"];
    let texts = files.map(|file| std::fs::read_to_string(folder.join(file)).unwrap());
    let texts: Vec<Text<'_>> = files.iter().zip(&texts).map(|(file, text)| Text { file, text }).collect();
    Catalogue::parse(&texts).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_catalogue_has_what_people_own() {
    let catalogue = catalogue();
    for card in "rtx3060 rtx3090 rtx4090 rtx5090 gtx1660super t4 a100-40 a100-80 h100 h200 b200".split(' ') {
        assert!(catalogue.cards.contains_key(card), "{card}");
    }
    let memories = "ddr4-2666x2 ddr4-3200x2 ddr5-5600x2 ddr5-6000x2 ddr4-3200x8 ddr4-3200x8-xeon ddr5-4800x12";
    for memory in memories.split(' ') {
        assert!(catalogue.memories.contains_key(memory), "{memory}");
    }
    for drive in "sata nvme3 nvme4 nvme5".split(' ') {
        assert!(catalogue.drives.contains_key(drive), "{drive}");
    }
    // What the name says of a memory is what its peak says: channels × 8 bytes × transfers.
    for memory in catalogue.memories.values() {
        let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<f64>().unwrap();
        let (transfers, channels) = memory.name.split_once('-').unwrap().1.split_once('x').unwrap();
        let peak = digits(transfers) * 8e6 * digits(channels);
        assert!((memory.bandwidth.value.0 / peak - 1.0).abs() < 0.002, "{}", memory.name);
    }
}

/// A sound file with one part, in which one text is replaced by another.
fn broken(from: &str, to: &str) -> String {
    let sound = "version: 1
sources:
  maker: https://example.org/drive
drives:
  nvme4:
    title: NVMe
    bandwidth: { is: 7GB/s, from: maker }
    pcie: { is: 4.0, from: maker }
    price: { is: 100USD, from: maker, when: 2026-05 }
";
    assert!(sound.contains(from), "{from}");
    sound.replacen(from, to, 1)
}

#[test]
fn a_catalogue_is_read_strictly() {
    let second = "  nvme4: { title: x, bandwidth: { is: 7GB/s, from: maker }, price: { is: 1USD, from: maker, when: 2026-05 } }\n";
    for (from, to, line, expected) in [
        ("version: 1", "version: 2", 1, "reads `version: 1`"),
        ("version: 1\n", "", 3, "missing field `version`"),
        ("7GB/s", "7GB", 7, "is no rate"),
        ("7GB/s", "-7GB/s", 7, "is no rate"),
        ("7GB/s", "0GB/s", 7, "is no rate"),
        ("7GB/s", "NaN GB/s", 7, "is no rate"),
        ("7GB/s", "infGB/s", 7, "is no rate"),
        ("7GB/s", "8000000TiB/s", 7, "is no rate"),
        ("100USD", "1e300USD", 9, "is no price"),
        ("100USD", "NaNUSD", 9, "is no price"),
        ("4.0", "4.5", 8, "is no generation of PCI Express"),
        ("100USD", "100", 9, "is no price"),
        ("100USD", "-1USD", 9, "is no price"),
        ("2026-05", "May", 9, "is no month"),
        ("2026-05", "2026-13", 9, "is no month"),
        ("{ is: 7GB/s, from: maker }", "{ is: 7GB/s }", 7, "from"),
        ("7GB/s, from: maker", "7GB/s, from: nobody", 7, "not among this file's sources"),
        ("https://example.org/drive", "''", 3, "a text is missing"),
        ("sources:\n", "sources:\n  other: https://example.org\n", 3, "no figure comes from source \"other\""),
        ("nvme4", "NVMe 4", 6, "is no name"),
        ("bandwidth", "bandwith", 7, "bandwith"),
        ("drives:\n", &format!("drives:\n{second}"), 6, "nvme4"),
        ("version: 1", "- version: 1", 1, ""),
    ] {
        let text = broken(from, to);
        let error = Catalogue::parse(&[Text { file: "drives.yaml", text: &text }]).unwrap_err();
        assert!(error.message.contains(expected), "{from} → {to}: {error}");
        assert_eq!((error.file.as_str(), error.line), ("drives.yaml", line), "{from} → {to}: {error}");
    }
    let (one, other) = (broken("nvme4", "nvme4"), broken("NVMe", "another"));
    let texts = [Text { file: "a.yaml", text: &one }, Text { file: "b.yaml", text: &other }];
    assert!(Catalogue::parse(&texts).unwrap_err().to_string().starts_with("b.yaml:6:12: a second part \"nvme4\""));
}

#[test]
fn a_machine_is_named_by_its_parts() {
    let catalogue = catalogue();
    for (text, canonical) in [
        ("rtx3060+ddr4-3200x2:64GiB+nvme4", ""),
        ("ddr5-6000x2:96GiB+nvme5", ""),
        (" NVMe4 + DDR4-3200x2:64G + RTX3060 ", "rtx3060+ddr4-3200x2:64GiB+nvme4"),
        ("rtx3090+2*rtx3090+ddr4-3200x8:0.25TiB+nvme3", "3*rtx3090+ddr4-3200x8:256GiB+nvme3"),
        ("ddr4-3200x8:512GiB+sata+64cores", ""),
        ("ddr4-3200x8:512GiB+sata+32cores", "ddr4-3200x8:512GiB+sata"),
        ("ddr4-3200x2:1500MiB+sata", ""),
    ] {
        let build = Build::parse(text, &catalogue).unwrap_or_else(|error| panic!("{text}: {error}"));
        let canonical = if canonical.is_empty() { text } else { canonical };
        assert_eq!(build.to_string(), canonical);
        assert_eq!(Build::parse(canonical, &catalogue), Ok(build));
    }
}

#[test]
fn words_that_are_no_machine_are_refused_with_a_way_out() {
    let catalogue = catalogue();
    for (text, expected) in [
        ("", "a part is missing"),
        ("rtx3060++nvme4", "a part is missing"),
        ("rtx3060", "names no memory\n\nhint: a machine is"),
        ("rtx3060+ddr4-3200x2:64GiB", "names no drive"),
        (
            "rtx3600+ddr4-3200x2:64GiB+nvme4",
            "\"rtx3600\" is not in the catalogue\n\nhint: did you mean rtx3060? GPUs are a100-40,",
        ),
        ("ddr4-3200:64GiB+nvme4", "did you mean ddr4-3200x2"),
        ("ddr4-3200x2:64GiB+nvm4", "did you mean nvme4"),
        ("ddr4-3200x2:64GiB+nvme4+bananas", "hint: GPUs are"),
        ("t4+ddr4-3200x2:64GiB+nvme4", "t4 (Tesla T4) is sm_75, too old: GPUs from sm_80 up are used"),
        ("gtx1660super+ddr4-3200x2:64GiB+nvme4", "(GeForce GTX 1660 SUPER) is sm_75, too old"),
        ("ddr4-3200x2+nvme4", "how much of it? Usual are 16GiB, 32GiB, 64GiB, 128GiB"),
        ("ddr4-3200x2:lots+nvme4", "\"lots\" is not a size"),
        ("ddr4-3200x2:-64GiB+nvme4", "is not a size"),
        ("ddr4-3200x2:64+nvme4", "sold from 1GiB to 128GiB"),
        ("ddr4-3200x2:1TiB+nvme4", "sold from 1GiB to 128GiB"),
        ("ddr4-3200x2:64GiB+ddr5-6000x2:64GiB+nvme4", "a second memory"),
        ("ddr4-3200x2:64GiB+nvme4+sata", "\"sata\" is a second drive"),
        ("rtx3060:12GiB+ddr4-3200x2:64GiB+nvme4", "rtx3060 has one size only"),
        ("0*rtx3060+ddr4-3200x2:64GiB+nvme4", "at most 16 GPUs"),
        ("99*rtx3060+ddr4-3200x2:64GiB+nvme4", "at most 16 GPUs"),
        ("-1*rtx3060+ddr4-3200x2:64GiB+nvme4", "at most 16 GPUs"),
        ("2*nvme4+ddr4-3200x2:64GiB", "only GPUs are counted"),
        ("2*ddr4-3200x2:64GiB+nvme4", "only GPUs are counted"),
        ("ddr4-3200x2:64GiB+nvme4+0cores", "cores are 1 to 1024"),
        ("ddr4-3200x2:64GiB+nvme4+8cores+8cores", "a second number of cores"),
    ] {
        let error = Build::parse(text, &catalogue).expect_err(text).to_string();
        assert!(error.contains(expected) && error.contains("\n\nhint: "), "{text}: {error}");
    }
    // What nobody reads is not shown.
    for text in ["x".repeat(100_000), format!("{}nvme4", "rtx3060+".repeat(10)), "+".repeat(5000)] {
        let error = Build::parse(&text, &catalogue).unwrap_err().to_string();
        assert!(error.len() < 500 && error.contains("\n\nhint: "), "{error}");
    }
}

fn machine(text: &str, model: &str) -> Machine {
    Build::parse(text, &catalogue()).unwrap().machine(&common::inventory(model))
}

#[test]
fn advice_reaches_what_is_asked_and_is_no_dearer_than_what_else_does() {
    let (catalogue, model) = (catalogue(), common::inventory("llama-70b-q4_k_m"));
    let found = advise(&catalogue, &model, 5.0, 3).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.len(), 3);
    assert!(found.is_sorted_by(|a, b| a.price_usd <= b.price_usd));
    for advice in &found {
        assert!(advice.forecast.decode_tokens_per_s >= 5.0, "{}", advice.build);
        assert!(most_tokens_per_s(&advice.build, &model) >= advice.forecast.decode_tokens_per_s, "{}", advice.build);
    }
    // A desktop with an RTX 3060 is bound by its RAM, whatever is tuned: 31 GB of it for each token.
    let desktop = Build::parse("rtx3060+ddr5-6000x2:96GiB+nvme5", &catalogue).unwrap();
    assert!((3.4..4.2).contains(&most_tokens_per_s(&desktop, &model)));
    let error = advise(&catalogue, &model, 1e6, 3).unwrap_err().to_string();
    assert!(error.contains("the fastest is b200+") && error.contains("with at most"), "{error}");
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(advise(&catalogue, &model, rate, 3), Err(NoAdvice::NotARate(_))), "{rate}");
    }
}

fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 0.01, "found {found}, expected {expected}");
}

#[test]
fn rates_are_data_sheets_times_what_was_measured() {
    let desktop = machine("rtx3060+ddr4-3200x2:64GiB+nvme4", "llama-70b-q4_k_m");
    // 51.2 × 0.90 × 0.92; eight cores would do more. The drive: 7.45 × 0.92, four lanes of PCIe 4.0 being 7.88.
    near(desktop.ram_read.rate.0, 42.4e9);
    near(desktop.disk_read.rate.0, 6.85e9);
    // 360 × 0.82; 16 lanes of 1.969 GB/s × 0.87; 28 multiprocessors of 1.78 GHz where an H100 has 132 of 1.83.
    let card = &desktop.gpus[0];
    near(card.read.rate.0, 295.2e9);
    near(card.link.rate.0, 27.4e9);
    near(card.ops_per_second, 35.5e12);
    assert_eq!((desktop.cores, desktop.ram_total), (8, Bytes(64 << 30)));
    assert!(
        [desktop.ram_read, desktop.disk_read, card.read, card.link].iter().all(|rate| rate.source == Source::Catalogue)
    );
    // What is measured on an H100 comes out again.
    let h100 = &machine("h100+ddr5-4800x12:384GiB+nvme5", "llama-70b-q4_k_m").gpus[0];
    near(h100.read.rate.0, 2737e9);
    near(h100.link.rate.0, 54.9e9);
    // Types that look codes up are bound by arithmetic.
    let low = machine("rtx3060+ddr4-3200x2:64GiB+nvme4", "deepseek-r1-iq1_s");
    assert!(low.ram_read.rate.0 < 20e9 && low.gpus[0].read.rate.0 > 250e9, "{low:?}");
    // A drive and a card are no faster than the board's slots.
    let old = machine("rtx5090+ddr4-2666x2:64GiB+nvme5", "llama-70b-q4_k_m");
    near(old.disk_read.rate.0, 4.0 * 0.985e9 * 0.95 * 0.92);
    near(old.gpus[0].link.rate.0, 16.0 * 0.985e9 * 0.87);
    // Fewer cores read less where they are too few.
    let few = machine("ddr4-3200x8:256GiB+nvme4+4cores", "llama-70b-q4_k_m");
    assert!(few.cores == 4 && few.ram_read.rate.0 < 30e9, "{few:?}");
}

#[test]
fn a_machine_that_nobody_owns_is_planned() {
    let model = common::inventory("llama-70b-q4_k_m");
    let machine = machine("rtx3060+ddr4-3200x2:64GiB+nvme4", "llama-70b-q4_k_m");
    let plan = plan(&Profile::automatic(&machine), &model, &machine).unwrap_or_else(|refusal| panic!("{refusal}"));
    // The bound for 45 GB/s of RAM is 1.43 tokens a second.
    let decode = plan.forecast.decode_tokens_per_s;
    assert!((1.1..1.45).contains(&decode), "{decode}");
    assert!(!plan.forecast.measured);
    assert!(
        plan.notes.iter().any(|note| note.starts_with("the forecast is for parts of the catalogue")),
        "{:?}",
        plan.notes
    );
    assert!(!plan.notes.iter().any(|note| note.contains("probe")), "{:?}", plan.notes);
}
