//! The JSON Schema of profiles: it accepts the profiles in `configs/`, and it is as strict as the reader about keys.

use plan::profile::{schema, to_yaml};
use plan::{Bytes, Profile, plan};
use serde_json::{Value, json};

use crate::common;

/// Whether a value meets a schema, for the words that ours uses; an unknown word is a failure, not a pass.
fn meets(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    for (word, wanted) in schema.as_object().unwrap() {
        let fine = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" | "additionalProperties" => true,
            "$ref" => {
                let path = wanted.as_str().unwrap().trim_start_matches('#');
                return meets(value, root.pointer(path).unwrap(), root);
            }
            "anyOf" | "oneOf" => wanted.as_array().unwrap().iter().any(|choice| meets(value, choice, root).is_ok()),
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|name| is_a(value, name)),
                name => is_a(value, name),
            },
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "pattern" => {
                value.as_str().is_none_or(|text| regex::Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text))
            }
            "required" => wanted.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| meets(item, wanted, root))?;
                true
            }
            "propertyNames" => {
                let mut names = value.as_object().into_iter().flatten();
                names.try_for_each(|(name, _)| meets(&json!(name), wanted, root))?;
                true
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    match (wanted.get(key), &schema["additionalProperties"]) {
                        (Some(wanted), _) => meets(value, wanted, root)?,
                        (None, Value::Bool(false)) => return Err(format!("unknown key {key}")),
                        _ => {}
                    }
                }
                true
            }
            other => return Err(format!("the test does not know {other}")),
        };
        if !fine {
            return Err(format!("{value} against {word}: {wanted}"));
        }
    }
    if let (Some(wanted), None) =
        (schema.get("additionalProperties").filter(|w| w.is_object()), schema.get("properties"))
    {
        value.as_object().into_iter().flatten().try_for_each(|(_, value)| meets(value, wanted, root))?;
    }
    Ok(())
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the test does not know {other}"),
    }
}

fn check(text: &str) -> Result<(), String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let schema = schema();
    meets(&value, &schema, &schema)
}

#[test]
fn the_profiles_of_the_repository_meet_the_schema() {
    let configs = [
        include_str!("../../../../configs/quickstart.yaml"),
        include_str!("../../../../configs/cpu-only.yaml"),
        include_str!("../../../../configs/cpu-2gib.yaml"),
        include_str!("../../../../configs/rtx3060-12g-70b.yaml"),
        include_str!("../../../../configs/rtx3060-12g-671b.yaml"),
    ];
    for text in configs {
        check(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn a_written_plan_meets_the_schema() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let machine = common::desktop(Bytes(64 << 30));
    let plan = plan(&Profile::automatic(&machine), &model, &machine).unwrap();
    let text = to_yaml(&plan, &model);
    check(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
}

#[test]
fn the_schema_is_strict() {
    for text in [
        "tiers: { ram: { memory: 8GiB } }",
        "version: 1",
        "version: 2\ntiers: { ram: { memory: 8GiB } }",
        "version: 1\ntiers: { disk: {} }",
        "version: 1\ntiers: { ram: { memory: 8GiB }, vram: { memory: 8GiB } }",
        "version: 1\ntiers: { ram: { memory: 8 } }",
        "version: 1\ntiers: { ram: { memry: 8GiB } }",
        "version: 1\ntiers: { ram: { memory: 8GiB } }\nplacement: [{ role: bananas, home: ram }]",
        "version: 1\ntiers: { ram: { memory: 8GiB } }\nplacement: [{ role: norm }]",
        "version: 1\ntiers: { ram: { memory: 8GiB } }\nplacement: [{ layers: all, home: ram }]",
        "version: 1\ntiers: { ram: { memory: 8GiB } }\ncontext: { kv_type: q8 }",
        "version: 1\ntiers: { ram: { memory: 8GiB } }\nprefill: { micro_batch: many }",
    ] {
        assert!(check(text).is_err(), "{text}");
    }
}
