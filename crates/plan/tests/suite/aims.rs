//! Aims: what is asked to be fast is, and simple placements are never faster.

use plan::profile::parse;
use plan::{Aim, Bytes, Compared, Inventory, KvType, Lengths, Scheme, Tier, compare_for, plan_for, report};

use crate::common;

fn rows(model: &Inventory, ram: u64, text: &str) -> Vec<Compared> {
    let text = format!(
        "version: 1\ntiers: {{ gpu:0: {{ memory: 11.5GiB }}, ram: {{ memory: {}GiB }}, disk: {{}} }}\n{text}",
        ram - 8
    );
    let profile = parse(&text, "p.yaml").unwrap_or_else(|error| panic!("{error}"));
    let mut machine = common::desktop(Bytes(ram << 30));
    machine.gpus[0].ops_per_second = 35e12;
    compare_for(&profile, model, &machine, None, &common::ALL).unwrap_or_else(|refusal| panic!("{refusal}"))
}

#[test]
fn an_aim_is_read_with_its_lengths() {
    let parsed = |text: &str| parse(&format!("version: 1\ntiers: {{ ram: {{ memory: 8GiB }} }}\n{text}"), "p.yaml");
    for (text, aim, lengths) in [
        ("", None, Lengths { prompt: 512, answer: 128 }),
        ("aim: decode\n", Some(Aim::Decode), Lengths { prompt: 512, answer: 128 }),
        (
            "aim: balanced\nlengths: { prompt: 9000, answer: 10 }\n",
            Some(Aim::Balanced),
            Lengths { prompt: 9000, answer: 10 },
        ),
        ("lengths: { answer: 7 }\n", None, Lengths { prompt: 512, answer: 7 }),
    ] {
        let profile = parsed(text).unwrap();
        assert_eq!((profile.aim.value().copied(), profile.lengths), (aim, lengths), "{text}");
    }
    for (text, expected) in [
        ("aim: decod\n", "did you mean `decode`"),
        ("aim: speed\n", "\"speed\" is no aim"),
        ("lengths: { prompt: 0 }\n", "\"0\" is no number of tokens"),
        ("lengths: { prompt: -5 }\n", "\"-5\" is no number of tokens"),
        ("lengths: { promt: 5 }\n", "did you mean `prompt`"),
    ] {
        let error = parsed(text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.starts_with("p.yaml:3:"), "{text}: {error}");
    }
}

#[test]
fn each_aim_is_best_at_its_own() {
    let model = common::inventory("llama-70b-q4_k_m");
    let of = |aim: &str| rows(&model, 64, &format!("aim: {aim}\nlengths: {{ prompt: 2048, answer: 256 }}\n"));
    let plans: Vec<_> = ["decode", "prefill"].map(|aim| of(aim)[0].plan.clone().unwrap()).into();
    let [decode, prefill] = plans.try_into().unwrap();
    assert!(decode.forecast.decode_tokens_per_s > prefill.forecast.decode_tokens_per_s);
    assert!(prefill.forecast.prompt_tokens_per_s > decode.forecast.prompt_tokens_per_s);
    // Answers want weights on the card, prompts want room for large batches.
    assert!(decode.micro_batch < prefill.micro_batch, "{} {}", decode.micro_batch, prefill.micro_batch);
    assert!(decode.tier(Tier::Gpu(0)).unwrap().read_per_token > prefill.tier(Tier::Gpu(0)).unwrap().read_per_token);
}

#[test]
fn the_choice_stands_beside_simple_placements() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let rows = rows(&model, 64, "aim: decode\n");
    assert_eq!(rows.iter().map(|row| row.scheme).collect::<Vec<_>>()[1..], [Scheme::Layers, Scheme::ExpertsOnCpu]);
    // Experts that few tokens read leave the card to what all of them read.
    assert!(rows[0].seconds < 0.95 * rows[1].seconds, "{} {}", rows[0].seconds, rows[1].seconds);
    let profile = parse("version: 1\ntiers: { ram: { memory: 8GiB } }\naim: decode\n", "p.yaml").unwrap();
    let table = report::compare(&rows, &profile);
    assert!(table.lines().all(|line| line.chars().count() <= report::COLUMNS), "{table}");
    for part in ["for an answer of 128 tokens", "the planner's choice", "by layer (-ngl)", "experts on the CPU (-cmoe)"]
    {
        assert!(table.contains(part), "{table}");
    }
    println!("{table}");
}

#[test]
fn an_open_context_is_as_long_as_costs_little() {
    let model = common::inventory("llama-1b-q4_k_m");
    let tokens = |text: &str| {
        let text = format!("version: 1\ntiers: {{ ram: {{ memory: 600MiB }}, disk: {{}} }}\n{text}");
        let profile = parse(&text, "p.yaml").unwrap();
        let plan = plan_for(&profile, &model, &common::desktop(Bytes(8 << 30)), None, &common::ALL).unwrap();
        (plan.kv.tokens, plan.tier(Tier::Disk).unwrap().read_per_token)
    };
    let (usual, short, long) =
        (tokens(""), tokens("aim: decode\n"), tokens("aim: decode\nlengths: { prompt: 3000, answer: 100 }\n"));
    // What a context of 640 tokens leaves free is read from the drive otherwise.
    assert_eq!((usual.0, short.0, long.0), (4096, 1024, 4096));
    assert!(short.1.as_f64() < 0.9 * usual.1.as_f64(), "{short:?} {usual:?}");
    assert_eq!(tokens("aim: decode\ncontext: { tokens: 2048 }\n").0, 2048);
}

#[test]
fn open_types_of_keys_and_values_follow_what_serves() {
    let model = common::inventory("llama-1b-q4_k_m");
    let plan = |context: &str| {
        let text = format!(
            "version: 1\ntiers: {{ ram: {{ memory: 700MiB }}, disk: {{}} }}\naim: decode\ncontext: {{ {context} }}\n"
        );
        let profile = parse(&text, "p.yaml").unwrap();
        plan_for(&profile, &model, &common::desktop(Bytes(8 << 30)), None, &common::ALL)
    };
    let (asked, open) = (plan("tokens: 8192").unwrap(), plan("tokens: 8192, kv_type: auto").unwrap());
    assert_eq!((asked.kv.k_type, open.kv.k_type, open.kv.v_type), (KvType::F16, KvType::Q8_0, KvType::Q8_0));
    assert!(open.forecast.decode_tokens_per_s > 1.05 * asked.forecast.decode_tokens_per_s);
    assert!(
        open.notes.iter().any(|note| note.starts_with("keys and values in q8_0 instead of f16")),
        "{:?}",
        open.notes
    );
    // A short context has them in f16, as without the word.
    assert_eq!(plan("tokens: 256, kv_type: auto").unwrap(), plan("tokens: 256").unwrap());
    // Where only 8 bits fit, they are taken.
    assert!(plan("tokens: 24000").is_err());
    assert_eq!(plan("tokens: 24000, kv_type: auto").unwrap().kv.v_type, KvType::Q8_0);
}
