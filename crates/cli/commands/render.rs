//! `plimsoll render`: the text that the model's chat template makes of a conversation.

use serde_json::Value;

use crate::args::RenderArgs;
use crate::text::{ChatTemplate, RenderOptions};
use crate::{open, show};

pub(super) fn run(args: &RenderArgs) -> anyhow::Result<()> {
    let messages = super::read_json::<Vec<Value>>(&args.messages, "an array of messages with role and content")?;
    let tools = args.tools.as_deref().map(|path| super::read_json::<Value>(path, "an array of tools")).transpose()?;
    let model = open::header(&args.model)?;
    let template = ChatTemplate::from_metadata(&model.metadata)?;
    let options =
        RenderOptions { add_generation_prompt: !args.no_generation_prompt, tools, ..RenderOptions::default() };
    show::product(&template.render(&messages, &options)?)
}
