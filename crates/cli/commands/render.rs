//! `plimsoll render`: the text that the model's chat template makes of a conversation.

use serde_json::Value;

use crate::args::RenderArgs;
use crate::failure::Usage;
use crate::text::{ChatTemplate, RenderOptions};
use crate::{open, show};

pub(super) fn run(args: &RenderArgs) -> anyhow::Result<()> {
    let messages = super::read_json::<Vec<Value>>(&args.messages, "an array of messages with role and content")?;
    check(&messages)?;
    let tools =
        args.tools.as_deref().map(|path| super::read_json::<Vec<Value>>(path, "an array of tools")).transpose()?;
    let model = open::header_alone(&args.model)?;
    let template = ChatTemplate::from_metadata(&model.metadata)?;
    if tools.is_some() && !template.reads_tools() {
        show::note("note: the model's chat template knows no tools; they are left out");
    }
    let tools = tools.map(Value::Array);
    let extra = args.template.chat_template_kwargs.clone().unwrap_or_default();
    super::unread(&template, &extra).for_each(|note| show::note(&format!("note: {note}")));
    let add_generation_prompt = !args.no_generation_prompt;
    let options = RenderOptions { add_generation_prompt, tools, extra, ..RenderOptions::default() };
    show::product(&template.render(&messages, &options)?)
}

/// Refuses what is no conversation, before a template fails at it and the model is blamed.
fn check(messages: &[Value]) -> Result<(), Usage> {
    const HINT: &str = r#"hint: a message is an object such as {"role": "user", "content": "Hello"}"#;
    if messages.is_empty() {
        return Err(Usage(format!("there is no message\n\n{HINT}")));
    }
    for (index, message) in messages.iter().enumerate() {
        let content = message.get("content");
        let wrong = if !message.is_object() {
            "is no object"
        } else if !message.get("role").is_some_and(Value::is_string) {
            "has no role, which is a string"
        } else if content.is_some_and(|content| content.is_string() || content.is_array()) {
            continue;
        } else if content.is_none_or(Value::is_null) && message.get("tool_calls").is_some() {
            // An assistant that only calls tools says nothing.
            continue;
        } else {
            "has no content, which is a string or an array of parts"
        };
        return Err(Usage(format!("message {index} (counted from 0) {wrong}\n\n{HINT}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_conversation_is_refused_by_index() {
        let good = json!({ "role": "user", "content": "Hello" });
        for (messages, part) in [
            (json!([]), "there is no message"),
            (json!([good, 1]), "message 1 (counted from 0) is no object"),
            (json!([{ "role": 1, "content": "" }]), "message 0 (counted from 0) has no role"),
            (json!([{ "content": "" }]), "has no role"),
            (json!([good, good, { "role": "user" }]), "message 2 (counted from 0) has no content"),
            (json!([{ "role": "user", "content": 1 }]), "has no content"),
            (json!([{ "role": "user", "content": null }]), "has no content"),
        ] {
            let error = check(messages.as_array().expect("an array")).expect_err(part).to_string();
            assert!(error.contains(part) && error.contains("hint: "), "{messages}: {error}");
        }
    }

    #[test]
    fn conversations_pass() {
        let parts = json!([{ "type": "text", "text": "Hello" }]);
        for messages in [
            json!([{ "role": "user", "content": "" }]),
            json!([{ "role": "user", "content": parts }]),
            json!([{ "role": "assistant", "content": null, "tool_calls": [] }]),
            json!([{ "role": "assistant", "tool_calls": [] }]),
        ] {
            assert!(check(messages.as_array().expect("an array")).is_ok(), "{messages}");
        }
    }
}
