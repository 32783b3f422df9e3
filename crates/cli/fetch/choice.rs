//! Which files of a repository make a model: one, or a split set, by the quantization that is asked for.
//!
//! Owns how repositories name quantizations and parts. Must never know where the files are.

use super::{DEFAULT_QUANT, FetchError, HubName};

/// The files of the model among those of its repository, in the order of the split.
///
/// A quantization matches where it stands in the path as a word (`Q4_K` is no word in `Q4_K_M`); of several sets
/// that match, the one with the shortest name is meant (`Q4_K_M` before `UD-Q4_K_M`).
pub(super) fn choose(name: &HubName, files: &[String]) -> Result<Vec<String>, FetchError> {
    let sets = sets(files);
    let wanted = name.quant.as_deref().unwrap_or(DEFAULT_QUANT);
    let matching = sets.iter().filter(|set| has_word(&set.name, wanted)).min_by_key(|set| (set.name.len(), &set.name));
    let only = || if name.quant.is_none() && sets.len() == 1 { sets.first() } else { None };
    let Some(set) = matching.or_else(only) else {
        let mut quants: Vec<&str> = sets.iter().map(|set| quant_of(&set.name)).collect();
        quants.sort_unstable();
        quants.dedup();
        let Some(first) = quants.first() else { return Err(FetchError::NoGguf { repo: name.repo.clone() }) };
        return Err(FetchError::NoSuchQuant {
            repo: name.repo.clone(),
            quant: wanted.to_owned(),
            found: quants.join(", "),
            first: (*first).to_owned(),
        });
    };
    if set.files.len() == set.count {
        Ok(set.files.clone())
    } else {
        let (have, want) = (set.files.len(), set.count);
        Err(FetchError::NotWhole { repo: name.repo.clone(), set: set.files[0].clone(), have, want })
    }
}

/// One model in a repository: a file, or a split set.
struct FileSet {
    /// The path without split numbers and ending.
    name: String,
    files: Vec<String>,
    count: usize,
}

fn sets(files: &[String]) -> Vec<FileSet> {
    let mut sets: Vec<FileSet> = Vec::new();
    let mut sorted: Vec<_> = files.iter().filter(|path| is_language_model(path)).collect();
    sorted.sort();
    for path in sorted {
        let stem = &path[..path.len() - ".gguf".len()];
        let (name, count) = split_numbers(stem).unwrap_or((stem, 1));
        match sets.iter_mut().find(|set| set.name == name && set.count == count) {
            Some(set) => set.files.push(path.clone()),
            None => sets.push(FileSet { name: name.to_owned(), files: vec![path.clone()], count }),
        }
    }
    sets
}

/// GGUF files that are no vision projector and no importance matrix.
fn is_language_model(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    file.rsplit_once('.').is_some_and(|(_, ending)| ending == "gguf")
        && !file.contains("mmproj")
        && !file.contains("imatrix")
}

/// `NAME-00002-of-00009` as (`NAME`, 9). A number beyond its count is a name like any other, so that as many files as the count are all of them.
fn split_numbers(stem: &str) -> Option<(&str, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(count) || !digits(number) {
        return None;
    }
    let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((name, count))
}

fn has_word(path: &str, word: &str) -> bool {
    let (path, word) = (path.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    path.match_indices(&word).any(|(at, _)| {
        !path[..at].chars().next_back().is_some_and(inside)
            && !path[at + word.len()..].chars().next().is_some_and(inside)
    })
}

/// The part of a path that looks like a quantization: the last word of the file's name, or of its folder's where only that does
/// (`Q4_K_M/model-00001-of-00002`).
fn quant_of(path: &str) -> &str {
    const KINDS: [&str; 7] = ["q", "iq", "tq", "f", "bf", "mxfp", "nvfp"];
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let [name, folder] = [name, folder].map(|part| part.rsplit(['-', '.', '/']).next().unwrap_or(part));
    let looks = |word: &str| {
        let letters = word.find(|c: char| c.is_ascii_digit()).map(|digit| &word[..digit]);
        letters.is_some_and(|letters| KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(letters)))
    };
    if looks(folder) && !looks(name) { folder } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `quant` chooses among `files`, or how it fails.
    fn check(quant: &str, files: &[&str], chosen: Result<&[&str], &str>) {
        let quant = (!quant.is_empty()).then(|| quant.to_owned());
        let name = HubName { repo: "o/r".into(), quant };
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        match (choose(&name, &files), chosen) {
            (Ok(found), Ok(chosen)) => assert_eq!(found, chosen, "{name}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    #[test]
    fn a_quantization_chooses_its_files() {
        let repo = ["README.md", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-q8_0.gguf", "mmproj-F16.gguf", "m-IQ1_S.gguf"];
        check("", &repo, Ok(&["m-Q4_K_M.gguf"]));
        check("UD-Q4_K_M", &repo, Ok(&["m-UD-Q4_K_M.gguf"]));
        check("Q8_0", &repo, Ok(&["m-q8_0.gguf"]));
        check("Q4_K", &repo, Err("it has IQ1_S, Q4_K_M, q8_0"));
        check("F16", &repo, Err("no F16 GGUF"));
        check("", &["only.gguf", "x.txt"], Ok(&["only.gguf"]));
        check("", &["x.txt"], Err("has no GGUF file"));
        let split =
            ["Q2_K/m-Q2_K-00002-of-00002.gguf", "Q2_K/m-Q2_K-00001-of-00002.gguf", "m-Q3_K-00001-of-00003.gguf"];
        check("Q2_K", &split, Ok(&["Q2_K/m-Q2_K-00001-of-00002.gguf", "Q2_K/m-Q2_K-00002-of-00002.gguf"]));
        check("Q3_K", &split, Err("1 of 3 files"));
        // Sets named by their folders alone, or by those and themselves; numbers that are none of a set do not fill it.
        let folders = [
            "UD-IQ1_S/R1-UD-IQ1_S-00002-of-00002.gguf",
            "UD-IQ1_S/R1-UD-IQ1_S-00001-of-00002.gguf",
            "Q8_0/model-00001-of-00002.gguf",
            "Q8_0/model-00002-of-00002.gguf",
            "gguf/R1/BF16/R1-00001-of-00001.gguf",
            "Q5_K/R1-00001-of-00002.gguf",
            "Q5_K/R1-00003-of-00002.gguf",
        ];
        check("UD-IQ1_S", &folders, Ok(&[folders[1], folders[0]]));
        check("IQ1_S", &folders, Ok(&[folders[1], folders[0]]));
        check("Q8_0", &folders, Ok(&folders[2..4]));
        check("BF16", &folders, Ok(&folders[4..5]));
        check("Q5_K", &folders, Err("1 of 2 files"));
        check("", &folders[..5], Err("it has BF16, IQ1_S, Q8_0\n"));
    }
}
