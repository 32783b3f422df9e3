//! Splits a text into words before a byte-level vocabulary merges their bytes.
//!
//! Each family of models has its patterns; what one pattern leaves is handed to the next, and what none matches is a word
//! too. The patterns are those that the models were trained with, except that `\s+(?!\S)` (whitespace, but its last
//! character belongs to the word after it) is no pattern here: a [`Whitespace`] rule does the same after the match. So
//! the linear-time `regex` crate will do, no input can make it backtrack, and the memory of its automata is bounded.

use regex::{Regex, RegexBuilder};

use super::TextError;

/// Memory that one pattern's automaton may take for states that it makes while it runs; past it, it starts over.
const STATES_BYTES_MAX: usize = 512 * 1024;

/// What becomes of the last character of a stretch of whitespace that a word follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whitespace {
    /// It stays.
    Kept,
    /// It is left to the word.
    Left,
    /// It is left to the word, unless it ends a line.
    LeftUnlessNewline,
}
use Whitespace::{Kept, Left, LeftUnlessNewline};

/// One pattern and its rule for whitespace.
pub(super) type Stage = (&'static str, Whitespace);

/// A way of splitting: its names in `tokenizer.ggml.pre`, its patterns, and what else the name implies.
struct Family {
    names: &'static [&'static str],
    stages: &'static [Stage],
    /// A word that is a token is taken whole, even where merges would not make it.
    whole_words: bool,
    /// Text begins with BOS unless the metadata says otherwise.
    adds_bos: bool,
}

const GPT2: Stage = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Left);
const LLAMA3: Stage = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
const QWEN2: Stage = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
const GPT4O: Stage = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
const TEKKEN: Stage = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
const YOUTU: Stage = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
/// Kimi's: GPT-4o's with Chinese characters kept apart from other letters.
const KIMI: Stage = (
    r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeftUnlessNewline,
);
const DIGIT: Stage = (r"\p{N}", Kept);
const DIGITS_3: Stage = (r"\p{N}{1,3}", Kept);
const DIGITS: Stage = (r"\p{N}+", Kept);
const KANA_AND_HAN: Stage = ("[一-龥぀-ゟ゠-ヿ]+", Kept);
const HAN_AND_HANGUL: Stage = ("[一-龥ࠀ-一가-퟿]+", Kept);
const NEWLINE: Stage = (r"[\r\n]", Kept);
const DEEPSEEK3: Stage = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
    LeftUnlessNewline,
);
const SPARK: Stage = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+"##,
    Left,
);
/// Letters that have case, as `DeepSeek`'s first models list them; escaped where Unicode normalisation would change one.
pub(super) const CASED_LETTERS: Stage = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1F7D}ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌῐ-\u{1FD3}ῖ-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    Kept,
);

/// A family that neither takes words whole nor adds BOS.
const fn family(names: &'static [&'static str], stages: &'static [Stage]) -> Family {
    Family { names, stages, whole_words: false, adds_bos: false }
}

/// A family that takes words whole.
const fn whole(names: &'static [&'static str], stages: &'static [Stage]) -> Family {
    Family { names, stages, whole_words: true, adds_bos: false }
}

/// Every name that is known, with the patterns that llama.cpp and the models' own tokenizers give it.
const FAMILIES: &[Family] = &[
    Family {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        stages: &[LLAMA3],
        whole_words: true,
        adds_bos: true,
    },
    family(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    whole(&["glm4", "glm5"], &[LLAMA3]),
    family(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[QWEN2],
    ),
    family(
        &["qwen35"],
        &[(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
            LeftUnlessNewline,
        )],
    ),
    family(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[DIGIT, GPT2],
    ),
    family(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        &[GPT2],
    ),
    family(&["default"], &[(r"[\p{P}\$\+<=>\^~\|]+", Kept), GPT2, DIGITS, (r"[0-9][0-9][0-9]", Kept)]),
    family(&["falcon"], &[(r"[\p{P}\$\+<=>\^~\|`]+", Kept), GPT2, (r"[0-9][0-9][0-9]", Kept)]),
    family(
        &["deepseek-llm"],
        &[NEWLINE, CASED_LETTERS, (r"\s?[!-/:-~！-／：-～‘-‟　-。]+", Kept), (r"\s+$", Kept), HAN_AND_HANGUL, DIGITS],
    ),
    family(&["deepseek-coder"], &[NEWLINE, (r"\s?\p{L}+", Kept), (r"\s?\p{P}+", Kept), HAN_AND_HANGUL, DIGIT]),
    family(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[DIGITS_3, KANA_AND_HAN, DEEPSEEK3]),
    family(&["spark2_5"], &[DIGITS_3, KANA_AND_HAN, SPARK, DIGIT]),
    family(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    whole(&["granite-embed-multi-97m"], &[GPT4O]),
    Family { names: &["tekken"], stages: &[TEKKEN], whole_words: true, adds_bos: true },
    whole(&["youtu"], &[("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", Kept), YOUTU]),
    family(&["kimi-k2"], &[KIMI]),
    family(&["poro-chat", "bloom", "gpt3-finnish"], &[(r" ?[^(\s|.,!?…。，、।۔،)]+", Kept)]),
    family(&["viking"], &[(r" ?[^(\s|.,!?…。，、।۔،)]+", Kept), DIGIT]),
    family(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+",
            LeftUnlessNewline,
        )],
    ),
    family(
        &["seed-coder"],
        &[(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+",
            LeftUnlessNewline,
        )],
    ),
    family(
        &["exaone-moe"],
        &[(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+",
            LeftUnlessNewline,
        )],
    ),
    family(
        &["ufakzeka"],
        &[(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+", LeftUnlessNewline)],
    ),
    family(&["laguna"], &[(r"[^\n]+|\n+", Kept), QWEN2]),
    whole(
        &["minicpm5"],
        &[
            DIGITS_3,
            (
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
                LeftUnlessNewline,
            ),
        ],
    ),
    Family {
        names: &["chameleon"],
        stages: &[
            (r"<sentinel:[0-9]+>", Kept),
            (r"IMGIMG[A-I]{1,4}Z", Kept),
            (r"[\t\n]|    |  ", Kept),
            DIGIT,
            (r"[\p{P}!-/:-@\[-`{-~]", Kept),
            GPT2,
        ],
        whole_words: false,
        adds_bos: true,
    },
];

/// Splits texts as one family of models does.
pub(super) struct Splitter {
    stages: Vec<(Regex, Whitespace)>,
    /// A word that is a token is taken whole, even where merges would not make it.
    pub(super) whole_words: bool,
    /// Text begins with BOS unless the metadata says otherwise.
    pub(super) adds_bos: bool,
}

impl Splitter {
    /// The splitter with this name in `tokenizer.ggml.pre`.
    pub(super) fn named(name: &str) -> Result<Self, TextError> {
        let unknown = || {
            let known: Vec<_> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
            TextError::UnknownPre { found: name.to_owned(), known: known.join(", ") }
        };
        let family = FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(unknown)?;
        let compile = |(pattern, whitespace): &Stage| {
            let built = RegexBuilder::new(pattern).dfa_size_limit(STATES_BYTES_MAX).build();
            built.map(|regex| (regex, *whitespace)).map_err(|_| unknown())
        };
        let stages = family.stages.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { stages, whole_words: family.whole_words, adds_bos: family.adds_bos })
    }

    /// Gives the words of a text in order; together they are the text.
    pub(super) fn split<E>(&self, text: &str, out: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        split(&self.stages, text, out)
    }
}

fn split<E>(stages: &[(Regex, Whitespace)], text: &str, out: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let Some(((regex, whitespace), rest)) = stages.split_first() else { return out(text) };
    let mut done = 0;
    while let Some(found) = regex.find_at(text, done) {
        if done < found.start() {
            split(rest, &text[done..found.start()], out)?;
        }
        let end = found.end() - left_over(found.as_str(), *whitespace, found.end() == text.len());
        split(rest, &text[found.start()..end], out)?;
        done = end;
    }
    if done < text.len() { split(rest, &text[done..], out) } else { Ok(()) }
}

/// Bytes at the end of a match that are left to the word after it: `\s+(?!\S)`, without looking ahead.
fn left_over(found: &str, whitespace: Whitespace, at_end: bool) -> usize {
    let Some(last) = found.chars().next_back() else { return 0 };
    let left = match whitespace {
        Kept => false,
        Left => true,
        LeftUnlessNewline => !matches!(last, '\r' | '\n'),
    };
    let all_space = || found.chars().all(char::is_whitespace);
    if left && !at_end && last.len_utf8() < found.len() && last.is_whitespace() && all_space() {
        last.len_utf8()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let splitter = Splitter::named(name).unwrap();
        let push = &mut |word: &str| {
            words.push(word.to_owned());
            Ok::<(), ()>(())
        };
        splitter.split(text, push).unwrap();
        words
    }

    #[test]
    fn every_pattern_compiles_and_loses_nothing() {
        let text = "  Hello,\n\n  wörld's 12345 你好 \t x\u{3000}\r\n";
        for name in FAMILIES.iter().flat_map(|family| family.names) {
            let words = words(name, text);
            assert_eq!(words.concat(), text, "{name}");
            assert!(words.iter().all(|word| !word.is_empty()), "{name}");
        }
    }

    #[test]
    fn the_names_in_files_of_mixtures_are_known() {
        let names = "deepseek-llm deepseek-coder deepseek-v3 deepseek-r1-qwen kimi-k2 glm4 chatglm-bpe gpt-4o llama4 \
                     minimax-m2 hunyuan hunyuan-dense qwen2 qwen35 seed-coder tekken bailingmoe2 exaone-moe";
        for name in names.split(' ') {
            assert!(Splitter::named(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FAMILIES.iter().flat_map(|family| family.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn whitespace_leaves_its_last_character_to_the_word() {
        for (name, text, expected) in [
            ("gpt-2", "a   b", vec!["a", "  ", " b"]),
            ("gpt-2", "a\n\nb", vec!["a", "\n", "\n", "b"]),
            ("gpt-2", "a  ", vec!["a", "  "]),
            ("llama-bpe", "a\n\nb", vec!["a", "\n\n", "b"]),
            ("llama-bpe", "a \n  b", vec!["a", " \n", " ", " b"]),
            ("llama-bpe", "12345", vec!["123", "45"]),
            ("qwen2", "x 12", vec!["x", " ", "1", "2"]),
            ("deepseek-v3", "你好abc 12345", vec!["你好", "abc", " ", "123", "45"]),
            ("deepseek-llm", "Don't 12 34\n  你好", vec!["Don", "'", "t", " ", "12", " ", "34", "\n", "  ", "你好"]),
            ("deepseek-coder", "a_b  12", vec!["a", "_", "b", "  ", "1", "2"]),
            ("kimi-k2", "Kimi你好K2's 1234", vec!["Kimi", "你好", "K", "2", "'s", " ", "123", "4"]),
            ("minimax-m2", "MiniMax你好's 1234", vec!["Mini", "Max你好's", " ", "123", "4"]),
            ("qwen35", "e\u{301}a 12", vec!["e\u{301}a", " ", "1", "2"]),
            ("qwen2", "e\u{301}a", vec!["e", "\u{301}a"]),
            ("seed-coder", "a!!\n12", vec!["a", "!!", "\n", "1", "2"]),
            ("hunyuan", "a!!\n12", vec!["a", "!!\n", "1", "2"]),
        ] {
            assert_eq!(words(name, text), expected, "{name} {text:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_said_with_the_known_ones() {
        let error = Splitter::named("llama-9").err().unwrap().to_string();
        assert!(error.contains("\"llama-9\"") && error.contains("qwen2, "), "{error}");
    }
}
