//! Command lines that are read, and those that are refused.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::ErrorKind;
use plan::Bytes;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(spelled_out(line.split(' ').map(OsString::from)))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn llama_cpps_spellings_are_understood() {
    let line =
        "plimsoll run -m a.gguf -p -ngl -n 3 -ctk q8_0 -ctv f32 -ub 64 -ncmoe 4 -ot exps=CPU -ot x=DISK -t 2 -c 99";
    let Command::Run(run) = parse(line).expect("a command line").command else { panic!("run") };
    assert_eq!(run.prompt.as_deref(), Some("--n-gpu-layers"), "the price of spellings");
    let line = line.replace("-p -ngl", "-p hi -ngl 7 --ram 11.5GiB --seed 3");
    let Command::Run(run) = parse(&line).expect("a command line").command else { panic!("run") };
    let placement = run.placement;
    assert_eq!(placement.cache_type_k, Some(plan::KvType::Q8_0));
    assert_eq!(placement.cache_type_v, Some(plan::KvType::F32));
    assert_eq!((placement.ubatch_size, placement.n_gpu_layers, placement.n_cpu_moe), (Some(64), Some(7), Some(4)));
    assert_eq!(placement.override_tensor, ["exps=CPU", "x=DISK"]);
    assert_eq!((placement.threads, placement.ctx_size, run.n_predict), (Some(2), Some(99), Some(3)));
    assert_eq!(placement.ram, Some(Bytes(12_348_030_976)));
    assert_eq!(run.sampling.seed, Some(3));
}

#[test]
fn bench_takes_lists_and_llama_benchs_names() {
    let line = "plimsoll bench -m a.gguf -t 2 -p 128,512 -n 0 -d 64 -r 1 -o json";
    let Command::Bench(bench) = parse(line).expect("a command line").command else { panic!("bench") };
    assert_eq!((bench.n_prompt, bench.n_gen, bench.n_depth), (vec![128, 512], vec![0], vec![64]));
    assert_eq!((bench.repetitions, bench.output), (1, BenchFormat::Json));
}

#[test]
fn wrong_flags_are_usage_errors() {
    for (line, kind) in [
        ("plimsoll run", ErrorKind::MissingRequiredArgument),
        ("plimsoll run -m a --temp -1", ErrorKind::ValueValidation),
        ("plimsoll run -m a -n -7", ErrorKind::ValueValidation),
        ("plimsoll run -m a -n 5000000000", ErrorKind::ValueValidation),
        ("plimsoll run -m a -ngl -2", ErrorKind::ValueValidation),
        ("plimsoll run -m a -c -1", ErrorKind::ValueValidation),
        ("plimsoll bench -m a -n -5", ErrorKind::ValueValidation),
        ("plimsoll run -m a -cmoe -ncmoe 3", ErrorKind::ArgumentConflict),
        ("plimsoll run -m a --temp NaN", ErrorKind::ValueValidation),
        ("plimsoll run -m a --top-p 1.5", ErrorKind::ValueValidation),
        ("plimsoll run -m a --repeat-penalty 0", ErrorKind::ValueValidation),
        ("plimsoll run -m a --ram 12parsecs", ErrorKind::ValueValidation),
        ("plimsoll run -m a -ctk q4_0", ErrorKind::ValueValidation),
        ("plimsoll run -m a -t 0", ErrorKind::ValueValidation),
        ("plimsoll run -m a --raw --chat", ErrorKind::ArgumentConflict),
        ("plimsoll run -m a --raw --think hide", ErrorKind::ArgumentConflict),
        ("plimsoll run -m a --raw --chat-template-kwargs {}", ErrorKind::ArgumentConflict),
        ("plimsoll run -m a --trace", ErrorKind::MissingRequiredArgument),
        ("plimsoll run -m a --think maybe", ErrorKind::InvalidValue),
        ("plimsoll run -m a -p x -f y", ErrorKind::ArgumentConflict),
        ("plimsoll fly", ErrorKind::InvalidSubcommand),
        ("plimsoll profile check", ErrorKind::MissingRequiredArgument),
    ] {
        assert_eq!(parse(line).expect_err(line).kind(), kind, "{line}");
    }
}

#[test]
fn values_that_are_refused_are_named_with_what_is_expected() {
    for (line, expected) in [
        ("plimsoll run -m a -n -7", ["-7", "from 0 to 4294967295, or -1"]),
        ("plimsoll run -m a --temp -1", ["'-1'", "a number from 0 up"]),
        ("plimsoll run -m a --top-p -0.5", ["-0.5", "a number from 0 to 1"]),
        ("plimsoll run -m a -t -3", ["-3", "1..=1024"]),
        ("plimsoll chat -m a --chat-template-kwargs {", ["no JSON: ", "hint: an object such as"]),
        ("plimsoll render -m a --messages b --chat-template-kwargs [1]", ["not a JSON object", "hint: "]),
        ("plimsoll run -m a --chat-template-kwargs {\"tools\":[]}", ["tools is set by plimsoll", "hint: leave it out"]),
    ] {
        let told = parse(line).expect_err(line).to_string();
        assert!(expected.iter().all(|part| told.contains(part)), "{told}");
    }
}

#[test]
fn minus_one_is_all_there_is() {
    let line = "plimsoll run -m a -n -1 -ngl -1 -cmoe";
    let Command::Run(run) = parse(line).expect("a command line").command else { panic!("run") };
    assert_eq!((run.n_predict, run.placement.n_gpu_layers), (Some(u32::MAX), Some(plan::Overrides::ALL_LAYERS)));
    assert!(run.placement.cpu_moe);
}

#[test]
fn after_two_dashes_nothing_is_spelled_out() {
    let words = ["plimsoll", "-ngl", "--", "-ngl"].map(OsString::from);
    assert_eq!(spelled_out(words), ["plimsoll", "--n-gpu-layers", "--", "-ngl"]);
}
