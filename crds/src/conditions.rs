//! Conditions as Kubernetes means them: at most one of a type, and `lastTransitionTime` moves only when the
//! status does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::{Schema, SchemaGenerator, json_schema};

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl State {
    /// As it is written in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for State {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A condition before it is placed among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type, such as `Ready`.
    pub kind: &'static str,
    /// Whether it holds.
    pub state: State,
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Said {
    /// A condition of this type.
    pub fn new(
        kind: &'static str,
        state: impl Into<State>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            state: state.into(),
            reason,
            message: message.into(),
        }
    }
}

/// Longest message kept; the schema's limit.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Puts `said` among `conditions`, replacing the one of its type. `generation` is that of the spec it was
/// said about.
pub fn set(conditions: &mut Vec<Condition>, said: Said, generation: Option<i64>, now: Timestamp) {
    let status = said.state.as_str();
    let since = conditions
        .iter()
        .find(|old| old.type_ == said.kind && old.status == status)
        .map_or(Time(now), |old| old.last_transition_time.clone());
    let new = Condition {
        type_: said.kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_owned(),
        message: shortened(said.message),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|old| old.type_ == said.kind) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Whether the condition of this type holds.
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX - '…'.len_utf8())
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Schema of a status's conditions.
pub fn list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What is said, in one word." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds." },
                "reason": { "type": "string", "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "description": "Why, in one word for programs." },
                "message": { "type": "string", "maxLength": MESSAGE_BYTES_MAX, "description": "Why, in a sentence for people." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "Generation of the object this was said about." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_only_when_the_status_does() {
        let mut all = Vec::new();
        let ready = |state: bool, why| Said::new("Ready", state, why, "text");
        set(&mut all, ready(false, "Waiting"), Some(1), at(10));
        set(&mut all, ready(false, "StillWaiting"), Some(2), at(20));
        assert_eq!(all[0].last_transition_time, Time(at(10)));
        assert_eq!(all[0].reason, "StillWaiting");
        assert_eq!(all[0].observed_generation, Some(2));
        set(&mut all, ready(true, "Done"), Some(2), at(30));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].last_transition_time, Time(at(30)));
        assert!(holds(&all, "Ready"));
        assert!(!holds(&all, "Resolved"));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let mut all = Vec::new();
        let said = Said::new("Ready", State::Unknown, "Odd", "ä".repeat(4000));
        set(&mut all, said, None, at(1));
        assert!(all[0].message.len() <= MESSAGE_BYTES_MAX);
        assert!(all[0].message.ends_with("ä…"));
    }
}
