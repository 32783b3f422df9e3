//! Expert statistics: counts, shares, and the file that they are kept in.

use plan::{ExpertUse, ExpertUseError, ExpertUseWriter, Inventory, ModelShape, QuantType, VocabularySize};

use crate::common;

/// Layers 1 and 2 of 3 with 4 experts, of which each token uses 2.
fn model() -> Inventory {
    let shape = ModelShape {
        architecture: "deepseek2".to_owned(),
        layers: 3,
        embedding: 32,
        heads: 1,
        feed_forward: 32,
        vocabulary: 8,
        context_train: 512,
        kv_per_token: vec![(32, 32); 3],
        kv_row: (32, 32),
        latent: None,
        indexer_per_token: Vec::new(),
        delta: None,
        experts: 4,
        experts_used: 2,
    };
    let list = [1, 2].map(|layer| (format!("blk.{layer}.ffn_up_exps.weight"), QuantType::F32, vec![32, 32, 4]));
    common::build("a \"model\"", shape, VocabularySize::default(), list)
}

/// Three tokens: expert 3 thrice and 1 twice and 0 once in layer 1, and one of them in layer 2.
fn counted() -> ExpertUse {
    let mut counts = ExpertUse::new(&model());
    counts.add_tokens(3);
    counts.add(1, &[1, 3, 0, 3]);
    counts.add(1, &[3, 1]);
    counts.add(2, &[2, 0]);
    counts
}

#[test]
fn shares_are_of_the_tokens_that_passed_a_layer() {
    let counts = counted();
    for (layer, expert, share) in [
        (1, 0, Some(1.0 / 3.0)),
        (1, 2, Some(0.0)),
        (1, 3, Some(1.0)),
        (2, 0, Some(1.0)),
        (0, 0, None),
        (1, 4, None),
        (9, 0, None),
    ] {
        assert_eq!(counts.share(layer, expert), share, "layer {layer}, expert {expert}");
    }
    assert_eq!(ExpertUse::new(&model()).share(1, 0), None, "no counts yet");
}

#[test]
fn an_expert_that_was_never_seen_is_rare_and_not_impossible() {
    let (counts, none) = (counted(), ExpertUse::new(&model()));
    for (counts, layer, expert, share) in [
        // Six choices and four halves are worth two experts of each token: a quarter each.
        (&counts, 1, 3, 3.5 / 4.0),
        (&counts, 1, 1, 2.5 / 4.0),
        (&counts, 1, 2, 0.5 / 4.0),
        // Two choices and four halves.
        (&counts, 2, 1, 0.5 / 2.0),
        // Without counts all are alike: two of four.
        (&none, 1, 0, 0.5),
    ] {
        let found = counts.likely_share(layer, expert);
        assert!((found - share).abs() < 1e-12, "layer {layer}, expert {expert}: {found}");
    }
}

#[test]
fn the_shares_of_a_layer_are_as_many_as_a_token_uses() {
    let mut many = ExpertUse::new(&model());
    many.add_tokens(1_000_000);
    for expert in 0..2 {
        many.add(1, &vec![expert; 1_000_000]);
    }
    for counts in [counted(), many, ExpertUse::new(&model())] {
        for layer in [1, 2] {
            let shares: Vec<f64> = (0..4).map(|expert| counts.likely_share(layer, expert)).collect();
            assert!((shares.iter().sum::<f64>() - 2.0).abs() < 1e-9, "layer {layer}: {shares:?}");
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "layer {layer}: {shares:?}");
        }
    }
}

#[test]
fn what_is_written_reads_back() {
    let mut foreseen = counted();
    foreseen.add_guesses(200, 120);
    assert!(foreseen.foreseen().pays() && !counted().foreseen().pays());
    for counts in [counted(), foreseen, ExpertUse::new(&model())] {
        assert_eq!(ExpertUse::parse(&counts.to_json(), "use.json"), Ok(counts));
    }
    let mut dense = model();
    dense.shape.experts = 0;
    dense.shape.experts_used = 0;
    dense.units.clear();
    let counts = ExpertUse::new(&dense);
    assert_eq!(ExpertUse::parse(&counts.to_json(), "use.json"), Ok(counts));
}

#[test]
fn a_trace_stands_beside_the_counts() {
    let counts = counted();
    let mut writer = ExpertUseWriter::default();
    let mut text = writer.head(&ExpertUse::new(&model()));
    text += &writer.line(0, 1, [[1, 3], [0, 3]]);
    text += &writer.line(2, 1, [[3, 1]]);
    text += &writer.line(2, 2, [vec![2, 0]]);
    text += &writer.tail(&counts);
    let read = ExpertUse::parse(&text, "use.json").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(read.passes_traced(), 3);
    assert!(read.layers().eq(counts.layers()));
    let empty = ExpertUseWriter::default();
    let text = empty.head(&counts) + &empty.tail(&counts);
    assert_eq!(ExpertUse::parse(&text, "use.json"), Ok(counts));
}

#[test]
fn malformed_files_are_refused_by_what_is_wrong() {
    let sound = counted().to_json().replacen("\"tokens\"", "\"trace\": [[0, 1, [1, 3]]], \"tokens\"", 1);
    ExpertUse::parse(&sound, "use.json").unwrap_or_else(|error| panic!("{error}\n{sound}"));
    for (from, to, says) in [
        (sound.as_str(), "", "line 1, column 0: EOF"),
        ("{\n  \"version\"", "[{\"version\"", "line 1"),
        ("\"version\": 1", "\"version\": 2", "version: expected 1, found 2"),
        ("\"version\": 1,", "", "missing field `version`"),
        (
            "\"version\": 1,",
            "\"version\": 1, \"foreseen\": { \"guessed\": 3, \"chosen\": 4 },",
            "foreseen: chosen: expected at most 3, as were guessed, found 4",
        ),
        ("\"version\": 1", "\"version\": 1, \"bananas\": 3", "unknown field `bananas`"),
        ("\"version\": 1", "\"version\": 1, \"version\": 1", "duplicate field `version`"),
        ("\"tokens\": 3", "\"tokens\": -3", "line 5, column"),
        ("\"tokens\": 3", "\"tokens\": 18446744073709551616", "line 5, column"),
        (
            "\"tokens\": 3",
            "\"tokens\": 2",
            "layer 1: counts: expert 3: expected at most 2, the number of tokens, found 3",
        ),
        ("\"tokens\": 3", "\"tokens\": 18446744073709551615, \"tokens\": 1", "duplicate field `tokens`"),
        ("\"experts_used\": 2", "\"experts_used\": 5", "experts_used: expected at most 4"),
        (
            "\"experts_used\": 2",
            "\"experts_used\": 1",
            "layer 1: counts: expected at most 3 choices (3 tokens × 1), found 6",
        ),
        ("\"experts\": 4", "\"experts\": 5", "layer 1: counts: expected 5 counts, one for each expert, found 4"),
        ("[1, 2, 0, 3]", "[1, 2, 0, 3, 0]", "layer 1: counts: expected 4 counts"),
        ("[1, 2, 0, 3]", "[1, 2.5, 0, 3]", "invalid type: floating point `2.5`"),
        ("\"layer\": 2", "\"layer\": 1", "layers: expected layers in ascending order, one above 1, found 1"),
        ("\"layer\": 2", "\"layer\": 2, \"tokens\": 1", "unknown field `tokens`"),
        ("[[0, 1, [1, 3]]]", "[[0, 1]]", "invalid length 2"),
        ("[[0, 1, [1, 3]]]", "[[0, 1, 1, 3]]", "invalid type: integer `1`"),
        ("[[0, 1, [1, 3]]]", "[[0, 0, [1, 3]]]", "trace: expected layers that have counts, found layer 0"),
        ("[[0, 1, [1, 3]]]", "[[0, 1, [1, 4]]]", "trace: expected experts below 4, found expert 4"),
        ("[[0, 1, [1, 3]]]", "[[0, 1, [1, 2, 3]]]", "trace: expected at most 2 experts for a token, found 3"),
        ("]\n}\n", "]\n}\n{}", "trailing characters"),
    ] {
        let text = sound.replacen(from, to, 1);
        assert_ne!(text, sound, "{from} is not there");
        let error = ExpertUse::parse(&text, "use.json").expect_err(to).to_string();
        assert!(error.starts_with("use.json: ") && error.contains(says), "{to:?}: {says:?} is not in\n{error}");
        assert!(error.contains("\n\nhint: "), "{error}");
    }
}

#[test]
fn counts_whose_sum_has_no_number_are_refused() {
    let most = u64::MAX;
    let text = counted().to_json().replace("\"tokens\": 3", &format!("\"tokens\": {most}"));
    let text = text.replace("[1, 2, 0, 3]", &format!("[{most}, {most}, 0, 0]"));
    let error = ExpertUse::parse(&text, "use.json").unwrap_err().to_string();
    assert!(error.contains("layer 1: counts: expected at most 36893488147419103230 choices"), "{error}");
}

#[test]
fn deep_and_long_texts_end_in_an_error() {
    for text in ["[".repeat(100_000), format!("{{\"{}\": 1}}", "x".repeat(100_000)), "{\"trace\": [".repeat(50_000)] {
        let error = ExpertUse::parse(&text, "use.json").unwrap_err().to_string();
        assert!(error.chars().count() < 500 && error.contains("line 1, column"), "{error}");
    }
}

type Change = fn(&mut Inventory);

#[test]
fn counts_of_another_model_are_refused() {
    let counts = counted();
    assert_eq!(counts.check(&model()), Ok(()));
    let mut renamed = model();
    renamed.name = "another quantization".to_owned();
    assert_eq!(counts.check(&renamed), Ok(()));
    let others: [(Change, &str); 4] = [
        (
            |model| model.shape.architecture = "llama".to_owned(),
            "say architecture deepseek2, and a \"model\" has llama",
        ),
        (|model| model.shape.experts = 8, "say 4 experts in a layer, and a \"model\" has 8"),
        (|model| model.shape.experts_used = 1, "say 2 experts for each token, and a \"model\" has 1"),
        (
            |model| model.units.truncate(4),
            "say 2 layers with experts (1 to 2), and a \"model\" has 1 layers with experts",
        ),
    ];
    for (change, says) in others {
        let mut other = model();
        change(&mut other);
        let error = counts.check(&other).unwrap_err();
        assert!(matches!(error, ExpertUseError::OtherModel { .. }));
        assert!(error.to_string().contains(says), "{error}");
    }
}
