//! `plimsoll inspect`: what a model file holds.

use std::collections::BTreeMap;
use std::fmt::Write;

use gguf::{Model, Summary, Value};
use serde_json::json;

use crate::args::InspectArgs;
use crate::open;
use crate::show::{self, Table, visible};

/// Arrays are shown up to this many elements to people.
const SHOWN_ELEMENTS: usize = 6;
/// And to scripts up to this many: longer ones are vocabularies.
const JSON_ELEMENTS: usize = 1024;

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let model = open::header_alone(&args.model)?;
    let summary = gguf::summary(&model)?;
    if args.json {
        show::json(&document(&model, &summary, args.tensors))
    } else {
        show::product(&page(&model, &summary, args.tensors))
    }
}

/// Why this build cannot run the model, if so.
fn trouble(model: &Model) -> Option<String> {
    let text = engine::check_model(model).err()?.to_string();
    Some(text.split("\n\nhint:").next().unwrap_or_default().to_owned())
}

/// What a message says before it goes into detail.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(':')
}

fn document(model: &Model, summary: &Summary, tensors: bool) -> serde_json::Value {
    let inventory = &model.inventory;
    let shares = summary.shares.iter().map(|share| {
        json!({
            "role": share.role,
            "type": share.quant.name(),
            "tensors": share.tensors,
            "units": share.units,
            "parameters": share.parameters,
            "bytes": share.bytes,
        })
    });
    let template = summary.template.map(|mark| json!({ "bytes": mark.bytes, "fnv1a": format!("{:016x}", mark.fnv1a) }));
    let unsupported = engine::unsupported_types(inventory);
    let trouble = trouble(model);
    let metadata: serde_json::Map<_, _> =
        model.metadata.iter().map(|(key, value)| (key.to_owned(), as_json(value))).collect();
    let mut document = json!({
        "name": inventory.name,
        "gguf_version": model.version,
        "files": inventory.files,
        "bytes": summary.bytes(),
        "parameters": summary.parameters(),
        "shape": inventory.shape,
        "vocabulary": inventory.vocabulary,
        "shares": shares.collect::<Vec<_>>(),
        "chat_template": template,
        "unsupported_types": unsupported.iter().map(|u| (u.quant.name(), u.tensors)).collect::<BTreeMap<_, _>>(),
        "runs": trouble.is_none(),
        "why_not": trouble,
        "metadata": metadata,
    });
    if tensors {
        document["tensors"] = json!(inventory.tensors);
    }
    document
}

fn as_json(value: &Value) -> serde_json::Value {
    let long = |len: usize| json!({ "elements": len });
    match value {
        Value::Unsigned(n) => json!(n),
        Value::Signed(n) => json!(n),
        Value::Float(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::Text(text) => json!(text),
        Value::Integers(list) if list.len() <= JSON_ELEMENTS => json!(list),
        Value::Floats(list) if list.len() <= JSON_ELEMENTS => json!(list),
        Value::Bools(list) if list.len() <= JSON_ELEMENTS => json!(list),
        Value::Integers(list) => long(list.len()),
        Value::Floats(list) => long(list.len()),
        Value::Bools(list) => long(list.len()),
        Value::Strings(list) => long(list.len()),
    }
}

fn page(model: &Model, summary: &Summary, tensors: bool) -> String {
    let sections = [head(model, summary), shares(model, summary), metadata(model)];
    let mut text = sections.join("\n");
    if tensors {
        text.push('\n');
        text.push_str(&tensor_table(model));
    }
    text
}

fn head(model: &Model, summary: &Summary) -> String {
    let (inventory, shape) = (&model.inventory, &model.inventory.shape);
    let mut lines = vec![
        visible(&inventory.name),
        format!(
            "{}: {} layers, width {}, {} heads, vocabulary {}, context {}",
            visible(&shape.architecture),
            shape.layers,
            shape.embedding,
            shape.heads,
            shape.vocabulary,
            shape.context_train
        ),
    ];
    if shape.experts > 0 {
        lines.push(format!("{} experts, {} for each token", shape.experts, shape.experts_used));
    }
    lines.push(format!(
        "{:.3} billion parameters, {}, {:.2} bits each",
        summary.parameters() as f64 / 1e9,
        summary.bytes(),
        summary.bits_per_parameter()
    ));
    lines.extend(inventory.files.iter().map(|file| format!("{} ({})", visible(&file.path), file.bytes)));
    lines.push(match summary.template {
        Some(mark) => format!("chat template: {}, mark {:016x}", mark.bytes, mark.fnv1a),
        None => "chat template: none".to_owned(),
    });
    lines.push(match trouble(model) {
        Some(why) => format!("this build cannot run it: {}", visible(first_line(&why))),
        None => "this build runs it".to_owned(),
    });
    lines.push(String::new());
    lines.join("\n")
}

fn shares(model: &Model, summary: &Summary) -> String {
    let unsupported = engine::unsupported_types(&model.inventory);
    let mut table = Table::new(&["role", "type", "tensors", "units", "bytes", ""]);
    for share in &summary.shares {
        let mark = if unsupported.iter().any(|found| found.quant == share.quant) { "no kernel" } else { "" };
        table.row([
            share.role.to_string(),
            share.quant.to_string(),
            share.tensors.to_string(),
            share.units.to_string(),
            share.bytes.to_string(),
            mark.to_owned(),
        ]);
    }
    table.plain()
}

fn metadata(model: &Model) -> String {
    let mut table = Table::new(&["key", "value"]);
    for (key, value) in model.metadata.iter() {
        table.row([visible(key), in_short(value)]);
    }
    table.plain()
}

fn tensor_table(model: &Model) -> String {
    let mut table = Table::new(&["tensor", "type", "dimensions", "bytes"]);
    for tensor in &model.inventory.tensors {
        let dims = tensor.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
        table.row([visible(&tensor.name), tensor.quant.to_string(), dims, tensor.bytes.to_string()]);
    }
    table.plain()
}

fn in_short(value: &Value) -> String {
    fn list(len: usize, elements: impl Iterator<Item = String>) -> String {
        let mut text = format!("[{}", elements.take(SHOWN_ELEMENTS).collect::<Vec<_>>().join(", "));
        if len > SHOWN_ELEMENTS {
            let _ = write!(text, ", … ({len})");
        }
        text + "]"
    }
    match value {
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(text) => visible(text),
        Value::Integers(l) => list(l.len(), l.iter().map(ToString::to_string)),
        Value::Floats(l) => list(l.len(), l.iter().map(ToString::to_string)),
        Value::Bools(l) => list(l.len(), l.iter().map(ToString::to_string)),
        Value::Strings(l) => list(l.len(), l.iter().map(|text| visible(&String::from_utf8_lossy(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_cut_and_counted() {
        assert_eq!(in_short(&Value::Integers((0..100).collect())), "[0, 1, 2, 3, 4, 5, … (100)]");
        assert_eq!(in_short(&Value::Bools(vec![true])), "[true]");
        assert_eq!(as_json(&Value::Integers(vec![1; 2000])), json!({ "elements": 2000 }));
    }

    #[test]
    fn details_of_a_message_are_left_out() {
        let error = engine::EngineError::Tensors { architecture: "llama".into(), list: "no output.weight".into() };
        assert_eq!(first_line(&error.to_string()), "llama model does not fit its architecture");
        assert_eq!(first_line(""), "");
    }
}
