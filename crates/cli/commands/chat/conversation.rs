//! The messages of a conversation, and how they are saved.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: String,
    /// What the model thought before it said so. Templates that know the field decide what of it the model sees again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
}

/// A conversation: a system message perhaps, then user and assistant in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Self {
        Self { system, messages: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        self.messages.push(Message { role: Role::User, content: text, reasoning_content: String::new() });
    }

    /// An answer, and the thinking that led to it.
    pub(super) fn answered(&mut self, text: String, thinking: String) {
        self.messages.push(Message { role: Role::Assistant, content: text, reasoning_content: thinking });
    }

    /// Forgets everything but the system message.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    /// An empty text takes the system message away.
    pub(super) fn set_system(&mut self, text: String) {
        self.system = (!text.is_empty()).then_some(text);
    }

    /// Takes the last answer back; says whether a message waits for one now.
    pub(super) fn take_back_answer(&mut self) -> bool {
        if self.messages.last().is_some_and(|message| message.role == Role::Assistant) {
            self.messages.pop();
        }
        !self.messages.is_empty()
    }

    /// Whether the last message is the user's.
    pub(super) fn waits_for_answer(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role == Role::User)
    }

    /// Takes the last message back.
    pub(super) fn take_back_message(&mut self) {
        self.messages.pop();
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The messages as templates want them.
    pub(super) fn messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        system.chain(self.messages.iter().map(|message| json!(message))).collect()
    }

    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Conversation {
        let mut conversation = Conversation::new(Some("Be brief.".into()));
        conversation.say("Hello".into());
        conversation.answered("Hi".into(), String::new());
        conversation
    }

    #[test]
    fn messages_are_what_templates_want() {
        let roles: Vec<_> = some().messages().iter().map(|message| message["role"].clone()).collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        assert_eq!(some().messages()[2]["content"], "Hi");
    }

    #[test]
    fn an_answer_is_taken_back_and_its_question_stays() {
        let mut conversation = some();
        assert!(!conversation.waits_for_answer());
        assert!(conversation.take_back_answer());
        assert!(conversation.waits_for_answer() && conversation.len() == 1);
        assert!(conversation.take_back_answer(), "a question without an answer may be asked again");
        conversation.clear();
        assert!(!conversation.take_back_answer());
        assert_eq!(conversation.messages().len(), 1, "the system message stays");
    }

    #[test]
    fn thinking_is_kept_apart_from_what_was_said() {
        let mut conversation = some();
        conversation.say("Why?".into());
        conversation.answered("So.".into(), "hm".into());
        let messages = conversation.messages();
        assert_eq!((&messages[4]["content"], &messages[4]["reasoning_content"]), (&json!("So."), &json!("hm")));
        assert!(messages[2].get("reasoning_content").is_none(), "no thinking is no field");
        let saved = conversation.to_json().expect("JSON");
        assert_eq!(Conversation::from_json(&saved).expect("a conversation"), conversation);
    }

    #[test]
    fn a_saved_conversation_loads_and_nonsense_does_not() {
        let text = some().to_json().expect("JSON");
        assert_eq!(Conversation::from_json(&text).expect("a conversation"), some());
        for bad in ["", "[]", "{}", r#"{"messages":[{"role":"root","content":""}]}"#, r#"{"messages":[],"sytem":""}"#] {
            assert!(Conversation::from_json(bad).is_err(), "{bad}");
        }
    }
}
