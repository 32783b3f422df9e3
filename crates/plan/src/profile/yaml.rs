//! From text to the profile as written: YAML, and what is wrong with it in the user's words.
//!
//! Owns the bounds on what a document may make the parser do. Must never know what a key means.

use serde_saphyr::{MessageFormatter, UserMessageFormatter};

use super::prove::{Prover, did_you_mean, quoted};
use super::raw::RawProfile;
use super::{Fault, Origin, ProfileError};

impl Prover<'_> {
    /// YAML to the raw profile, with tight bounds on what a document may make the parser do.
    pub(super) fn read(&self, text: &str) -> Result<RawProfile, ProfileError> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_indentation: true,
            reject_unsupported_tags: true,
            budget: serde_saphyr::budget! {
                max_depth: 16,
                flow_nesting_limit: 16,
                max_documents: 2,
                max_aliases: 64,
                max_anchors: 64,
                max_nodes: 32_768,
                max_events: 65_536,
                max_merge_keys: 64,
            },
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| self.yaml_error(error.without_snippet()))
    }

    fn yaml_error(&self, error: &serde_saphyr::Error) -> ProfileError {
        use serde_saphyr::Error as Yaml;
        // An error inside an alias is shown where the alias stands.
        let cause = match error {
            Yaml::AliasError { error, .. } => error.without_snippet(),
            other => other,
        };
        let origin = match error.location() {
            Some(place) => self.lines.at(place.line(), place.column()),
            None => self.lines.at(1, 1),
        };
        let (fault, message, hint) = match cause {
            Yaml::SerdeUnknownField { field, expected, .. } => {
                (Fault::UnknownKey, format!("unknown key {}", quoted(field)), did_you_mean(field, expected))
            }
            Yaml::DuplicateMappingKey { key, .. } => (
                Fault::Syntax,
                format!("key {} stands here a second time", quoted(key.as_deref().unwrap_or("…"))),
                "keep one of them".to_owned(),
            ),
            Yaml::MultipleDocuments { .. } => {
                (Fault::Syntax, "a second document starts here".to_owned(), "a file holds one profile".to_owned())
            }
            Yaml::Budget { .. } => (
                Fault::Syntax,
                UserMessageFormatter.format_message(cause).into_owned(),
                "a profile needs few anchors and little nesting: is this the file you meant?".to_owned(),
            ),
            Yaml::UnknownAnchor { .. } => {
                (Fault::Syntax, "there is no anchor of this name".to_owned(), "write the value here".to_owned())
            }
            other => {
                let message = UserMessageFormatter.format_message(other).into_owned();
                let hint = if matches!(&origin, Origin::Profile(mark) if mark.text.contains('\t')) {
                    "this line holds a tab: YAML is indented with blanks".to_owned()
                } else {
                    "see `plimsoll profile schema` and the profiles in configs/ for how one is written".to_owned()
                };
                (Fault::Syntax, message, hint)
            }
        };
        ProfileError::new(fault, &origin, message, hint)
    }
}
