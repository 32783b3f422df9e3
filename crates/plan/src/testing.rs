//! Data for tests of this crate and of the command line: profiles that must be refused.

use std::fmt::Write as _;

/// What is needed to see that a profile is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading it is enough: `plimsoll profile check`.
    Parse,
    /// A dense model with fewer than 1000 layers and a machine without GPUs: `plimsoll plan`.
    Plan,
}

/// A profile that must be refused.
#[derive(Clone, Debug)]
pub struct MalformedProfile {
    /// A name for messages of tests.
    pub name: &'static str,
    /// The profile.
    pub text: String,
    /// When it must be refused.
    pub stage: Stage,
    /// The line and column that the message names.
    pub position: (u32, u32),
    /// What the message says.
    pub expected: &'static str,
}

/// Every one of them.
#[must_use]
pub fn malformed_profiles() -> Vec<MalformedProfile> {
    let case = |stage: Stage| {
        move |(name, text, position, expected): &(&'static str, &str, (u32, u32), &'static str)| MalformedProfile {
            name,
            text: (*text).to_owned(),
            stage,
            position: *position,
            expected,
        }
    };
    let mut cases: Vec<MalformedProfile> = PARSE.iter().map(case(Stage::Parse)).collect();
    cases.extend(PLAN.iter().map(case(Stage::Plan)));
    cases.extend(abuse());
    cases
}

type Case = (&'static str, &'static str, (u32, u32), &'static str);

/// A profile's beginning that is sound, one line long.
macro_rules! after_tiers {
    ($rest:literal) => {
        concat!("{version: 1, tiers: {ram: {memory: 8GiB}, disk: {}},\n", $rest, "}\n")
    };
}

/// (name, text, line and column, what the message says)
const PARSE: &[Case] = &[
    ("nothing", "", (1, 1), "key `version` is missing"),
    ("only a comment", "# a profile\n", (1, 1), "key `version` is missing"),
    ("a scalar", "hello\n", (1, 1), "mapping"),
    ("a list", "- version: 1\n", (1, 1), "mapping"),
    ("no version", "tiers: { ram: { memory: 8GiB } }\n", (1, 1), "key `version` is missing"),
    ("another version", "version: 2\ntiers: { ram: { memory: 8GiB } }\n", (1, 10), "version \"2\" is not known"),
    ("no tiers", "version: 1\n", (1, 1), "key `tiers` is missing"),
    ("mistyped key", "version: 1\nteirs: {}\n", (2, 1), "did you mean `tiers`"),
    ("mistyped tier key", "version: 1\ntiers:\n  ram: { memry: 8GiB }\n", (3, 10), "did you mean `memory`"),
    ("mistyped context key", after_tiers!("context: {token: 12}"), (2, 11), "did you mean `tokens`"),
    ("mistyped prefill key", after_tiers!("prefill: {microbatch: 12}"), (2, 11), "did you mean `micro_batch`"),
    ("mistyped decode key", after_tiers!("decode: {fetch_expert: 2}"), (2, 10), "did you mean `fetch_experts`"),
    ("experts that are no number", after_tiers!("decode: {fetch_experts: -1}"), (2, 25), "from 0 to 1024"),
    (
        "kept experts that are no number",
        after_tiers!("decode: {keep_experts: 5GiB}"),
        (2, 24),
        "is no number of experts",
    ),
    (
        "experts that stay and never come",
        after_tiers!("decode: {fetch_experts: 0, keep_experts: 9}"),
        (2, 42),
        "none are",
    ),
    ("foreseen experts that are no number", after_tiers!("decode: {foresee_experts: all}"), (2, 27), "from 0 to 1024"),
    (
        "a way to change places that is none",
        after_tiers!("decode: {exchange_experts: least_use}"),
        (2, 28),
        "did you mean `least_used`",
    ),
    ("layers that are no number", after_tiers!("decode: {stream_layers: most}"), (2, 25), "is no number of layers"),
    ("mistyped rule key", after_tiers!("placement: [{rol: norm, home: ram}]"), (2, 14), "did you mean `role`"),
    ("unknown key", after_tiers!("bananas: 3"), (2, 1), "unknown key \"bananas\""),
    ("key twice", "version: 1\nversion: 1\ntiers: { ram: { memory: 8GiB } }\n", (2, 1), "a second time"),
    ("tier twice", "version: 1\ntiers:\n  ram: { memory: 8GiB }\n  ram: { memory: 9GiB }\n", (4, 3), "a second time"),
    (
        "one GPU by two names",
        "version: 1\ntiers: { ram: { memory: 1GiB }, gpu:0: { memory: 1GiB }, gpu:00: { memory: 1GiB } }\n",
        (2, 58),
        "a second time",
    ),
    ("tab", "version: 1\ntiers:\n\tram: { memory: 8GiB }\n", (3, 2), "tab"),
    ("no ram", "version: 1\ntiers: { disk: {} }\n", (2, 8), "does not name ram"),
    ("no tier at all", "version: 1\ntiers: {}\n", (2, 8), "does not name ram"),
    ("tiers as a list", "version: 1\ntiers: [ram, disk]\n", (2, 8), "mapping"),
    ("mistyped tier", "version: 1\ntiers: { ram: { memory: 8GiB }, dsk: {} }\n", (2, 33), "did you mean `disk`"),
    (
        "GPU without a number",
        "version: 1\ntiers: { ram: { memory: 8GiB }, gpu: { memory: 8GiB } }\n",
        (2, 33),
        "\"gpu\" is not a tier",
    ),
    (
        "GPU with a name",
        "version: 1\ntiers: { ram: { memory: 8GiB }, gpu:a: { memory: 8GiB } }\n",
        (2, 33),
        "\"gpu:a\" is not a tier",
    ),
    ("ceiling without a unit", "version: 1\ntiers: { ram: { memory: 8 } }\n", (2, 25), "write 8MiB or 8GiB"),
    ("ceiling that is no size", "version: 1\ntiers: { ram: { memory: lots } }\n", (2, 25), "\"lots\" is not a size"),
    ("negative ceiling", "version: 1\ntiers: { ram: { memory: -8GiB } }\n", (2, 25), "\"-8GiB\" is not a size"),
    ("ceiling beyond all machines", "version: 1\ntiers: { ram: { memory: 99999999TiB } }\n", (2, 25), "is not a size"),
    ("ceiling of nothing", "version: 1\ntiers: { ram: { memory: 0GiB } }\n", (2, 25), "a ceiling of nothing"),
    ("ceiling that is a list", "version: 1\ntiers: { ram: { memory: [8GiB] } }\n", (2, 25), "string"),
    ("no ceiling", "version: 1\ntiers: { ram: {} }\n", (2, 10), "tier ram has no `memory`"),
    (
        "disk with a ceiling",
        "version: 1\ntiers: { ram: { memory: 8GiB }, disk: { memory: 8GiB } }\n",
        (2, 49),
        "does not belong to disk",
    ),
    (
        "threads of a GPU",
        "version: 1\ntiers: { ram: { memory: 8GiB }, gpu:0: { memory: 8GiB, threads: 4 } }\n",
        (2, 65),
        "does not belong to gpu:0",
    ),
    (
        "zero threads",
        "version: 1\ntiers: { ram: { memory: 8GiB, threads: 0 } }\n",
        (2, 40),
        "\"0\" is no number of threads",
    ),
    (
        "threads in words",
        "version: 1\ntiers: { ram: { memory: 8GiB, threads: all } }\n",
        (2, 40),
        "\"all\" is no number of threads",
    ),
    ("zero tokens", after_tiers!("context: {tokens: 0}"), (2, 19), "\"0\" is no number of tokens"),
    ("half a token", after_tiers!("context: {tokens: 1.5}"), (2, 19), "\"1.5\" is no number of tokens"),
    ("tokens beyond measure", after_tiers!("context: {tokens: 99999999999}"), (2, 19), "is no number of tokens"),
    ("unknown KV type", after_tiers!("context: {kv_type: q8}"), (2, 20), "did you mean `q8_0`"),
    ("KV type twice", after_tiers!("context: {kv_type: f16, k_type: f32}"), (2, 33), "given twice"),
    ("KV type open and given", after_tiers!("context: {kv_type: auto, k_type: f32}"), (2, 34), "given twice"),
    ("KV on disk", after_tiers!("context: {kv_home: disk}"), (2, 20), "cannot live on disk"),
    (
        "KV on a tier that is not named",
        after_tiers!("context: {kv_home: gpu:0}"),
        (2, 20),
        "gpu:0 is not among the tiers",
    ),
    ("rule without a home", after_tiers!("placement: [{role: norm}]"), (2, 13), "this rule has no `home`"),
    ("rule without a condition", after_tiers!("placement: [{home: ram}]"), (2, 13), "this rule has no condition"),
    (
        "unknown role",
        after_tiers!("placement: [{role: routed_experts, home: ram}]"),
        (2, 20),
        "did you mean `routed_expert`",
    ),
    ("role of another case", after_tiers!("placement: [{role: Norm, home: ram}]"), (2, 20), "did you mean `norm`"),
    (
        "home that is not named",
        after_tiers!("placement: [{role: norm, home: gpu:0}]"),
        (2, 32),
        "gpu:0 is not among the tiers",
    ),
    ("home that is no tier", after_tiers!("placement: [{role: norm, home: vram}]"), (2, 32), "\"vram\" is not a tier"),
    (
        "overflow into itself",
        after_tiers!("placement: [{role: norm, home: ram, overflow: ram}]"),
        (2, 47),
        "cannot overflow to ram",
    ),
    (
        "overflow of disk",
        after_tiers!("placement: [{role: norm, home: disk, overflow: ram}]"),
        (2, 48),
        "cannot overflow to ram",
    ),
    ("layers in words", after_tiers!("placement: [{layers: all, home: ram}]"), (2, 22), "\"all\" is not a range"),
    ("layers backwards", after_tiers!("placement: [{layers: 9..=3, home: ram}]"), (2, 22), "ends before it starts"),
    ("experts that are no range", after_tiers!("placement: [{experts: -1, home: ram}]"), (2, 23), "is not a range"),
    (
        "pattern that does not close",
        after_tiers!("placement: [{tensors: 'blk.(1', home: ram}]"),
        (2, 23),
        "unclosed group",
    ),
    ("pattern that looks around", after_tiers!("placement: [{tensors: '(?=x)', home: ram}]"), (2, 23), "look-around"),
    ("regex bomb", after_tiers!("placement: [{tensors: '((a{99}){99}){99}', home: ram}]"), (2, 23), "grows over"),
    ("unknown default", after_tiers!("default: somewhere"), (2, 10), "\"somewhere\" is not a tier"),
    ("default that is not named", after_tiers!("default: gpu:1"), (2, 10), "gpu:1 is not among the tiers"),
    ("streaming to RAM", after_tiers!("prefill: {stream_to: ram}"), (2, 22), "cannot be streamed to ram"),
    ("zero micro-batch", after_tiers!("prefill: {micro_batch: 0}"), (2, 24), "\"0\" is no number of tokens"),
    ("placement that is a mapping", after_tiers!("placement: {role: norm, home: ram}"), (2, 12), "sequence"),
    ("two documents", "version: 1\ntiers: { ram: { memory: 8GiB } }\n---\nversion: 1\n", (4, 1), "second document"),
    ("unknown anchor", "version: 1\ntiers: { ram: *nothing }\n", (2, 15), "no anchor"),
    ("unknown tag", "version: 1\ntiers: { ram: !!python/object:os.system { memory: 8GiB } }\n", (2, 41), "tag"),
    ("brace that does not close", "version: 1\ntiers: { ram: { memory: 8GiB }\n", (2, 8), "unclosed"),
    ("JSON of something else", "{\"name\": \"model\", \"weights\": [1, 2, 3]}\n", (1, 2), "unknown key \"name\""),
];

/// The same for what only the model or the machine shows.
const PLAN: &[Case] = &[
    (
        "role that the model lacks",
        after_tiers!("placement: [{role: routed_expert, home: ram}]"),
        (2, 13),
        "has no routed_expert",
    ),
    ("layer that the model lacks", after_tiers!("placement: [{layers: 1000.., home: ram}]"), (2, 13), "layers 1000..:"),
    (
        "last layer that the model lacks",
        after_tiers!("placement: [{layers: 0..=1000, home: ram}]"),
        (2, 13),
        "they count from 0 to",
    ),
    ("experts of a dense model", after_tiers!("placement: [{experts: 0-3, home: ram}]"), (2, 13), "has no experts"),
    (
        "pattern that matches nothing",
        after_tiers!("placement: [{tensors: 'blk\\.x', home: ram}]"),
        (2, 13),
        "matches nothing",
    ),
    (
        "conditions that exclude each other",
        after_tiers!("placement: [{role: embedding, layers: 0, home: ram}]"),
        (2, 13),
        "matches nothing",
    ),
    (
        "rule behind another",
        after_tiers!("placement: [{role: norm, home: ram},\n{tensors: norm, home: disk}]"),
        (3, 1),
        "belongs to an earlier rule",
    ),
    (
        "GPU that the machine lacks",
        "version: 1\ntiers: { ram: { memory: 8GiB }, gpu:7: { memory: 8GiB } }\n",
        (2, 50),
        "no gpu:7",
    ),
    ("ceiling below the process", "version: 1\ntiers: { ram: { memory: 1MiB }, disk: {} }\n", (2, 25), "too much"),
];

/// Documents made to take time or memory.
fn abuse() -> Vec<MalformedProfile> {
    let case =
        |name, text, position, expected| MalformedProfile { name, text, stage: Stage::Parse, position, expected };
    let start = "version: 1\ntiers: { ram: { memory: 8GiB } }\n";
    let mut aliases = String::from("version: 1\na: &a [x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
        let list = vec![format!("*{of}"); 9].join(", ");
        let _ = writeln!(aliases, "{name}: &{name} [{list}]");
    }
    let in_tiers =
        format!("version: 1\ntiers: &a {{ ram: {{ memory: 8GiB }} }}\nplacement: [{}]\n", "*a, ".repeat(500));
    let rule = "  - { role: norm, home: ram }\n";
    vec![
        case("nested 100,000 deep in brackets", "[".repeat(100_000), (1, 17), "recursion limit"),
        case(
            "nested 100,000 deep in lists",
            format!("{start}placement: {}\n", "- ".repeat(100_000)),
            (3, 12),
            "sequence",
        ),
        case("alias bomb", aliases, (2, 1), "unknown key \"a\""),
        case("alias bomb in a known key", in_tiers, (3, 13), "unknown key"),
        case("a megabyte", "# nothing\n".repeat(110_000), (1, 1), "a profile is at most 256.00 KiB"),
        case("2,000 rules", format!("{start}placement:\n{}", rule.repeat(2000)), (1028, 5), "at most 1024"),
        case("a word of 100,000 letters", format!("{start}{}: 1\n", "x".repeat(100_000)), (3, 1), "x"),
        case("bytes that are no text", format!("{start}\u{0}\u{1}\u{7f}: 1\n"), (3, 1), ""),
    ]
}
