//! One JSON object a line, for programs. `docs/reference.md` lists the events and their fields.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::clean::{clean, clean_line, is_unsafe, pairs};
use super::text::hint_lines;
use super::{Notice, Summary};
use crate::lock::LockInfo;

/// Renders notices as JSON. Remembers the lock last spoken of, so that every line of a run can be
/// found by its `lock` and `id`.
#[derive(Debug, Clone, Default)]
pub struct Json {
    lock: Option<String>,
    id: Option<String>,
}

impl Json {
    /// Returns the line, ended.
    ///
    /// Text from records is cleaned; `lock` and `id` are ours and exact. Escapes keep the line
    /// itself harmless in a CI log.
    #[must_use]
    pub fn render(&mut self, notice: &Notice, now: Timestamp) -> String {
        self.remember(notice);
        let (event, fields) = event_of(notice);
        self.line(event, fields, now)
    }

    /// The line that says how many notices were lost.
    #[must_use]
    pub(super) fn render_dropped(&self, count: u64, now: Timestamp) -> String {
        self.line("dropped", json!({ "count": count }), now)
    }

    fn remember(&mut self, notice: &Notice) {
        match notice {
            Notice::Waiting { lock, .. } | Notice::Replanned { lock, .. } => {
                self.lock = Some(lock.clone());
                self.id = None;
            }
            Notice::Acquired { lock, id, .. } | Notice::Released { lock, id, .. } => {
                self.lock = Some(lock.clone());
                self.id = Some(id.clone());
            }
            Notice::Finished(summary) => {
                self.lock = Some(summary.lock.clone());
                self.id.clone_from(&summary.id);
            }
            _ => {}
        }
    }

    fn line(&self, event: &str, fields: Value, now: Timestamp) -> String {
        let mut object = Map::new();
        object.insert("ts".into(), now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into());
        object.insert("event".into(), event.into());
        object.insert("lock".into(), self.lock.clone().into());
        object.insert("id".into(), self.id.clone().into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let mut line = escape(&Value::Object(object).to_string());
        line.push('\n');
        line
    }
}

fn event_of(notice: &Notice) -> (&'static str, Value) {
    match notice {
        Notice::Waiting {
            holder,
            waited,
            limit,
            free,
            ahead,
            plans_ahead,
            silent,
            unanswered,
            estimate,
            ..
        } => (
            "waiting",
            json!({
                "holder": holder.as_deref().map(holder_of),
                "waited_seconds": seconds(*waited),
                "limit_seconds": seconds(*limit),
                "free": free,
                "ahead": ahead,
                "plans_ahead": plans_ahead,
                "silent_seconds": silent.map(seconds),
                "unanswered_seconds": unanswered.map(seconds),
                "estimate_seconds": estimate.map(seconds),
            }),
        ),
        Notice::Acquired { waited, contended, .. } => {
            ("acquired", json!({ "waited_seconds": seconds(*waited), "contended": contended }))
        }
        Notice::Released { held, .. } => ("released", json!({ "held_seconds": seconds(*held) })),
        Notice::Replanned { writer, why, .. } => (
            "replanned",
            json!({ "holder": writer.as_deref().map(holder_of), "message": clean_line(why) }),
        ),
        Notice::Stopping { signal, doing } => {
            ("stopping", json!({ "signal": clean(signal), "doing": clean_line(doing) }))
        }
        Notice::Warning { message, hint } => (
            "warning",
            json!({ "message": clean_line(message), "hint": hint.as_deref().map(clean_hint) }),
        ),
        Notice::Error { message, hint, code } => (
            "error",
            json!({
                "message": clean_line(message),
                "hint": hint.as_deref().map(clean_hint),
                "code": code,
            }),
        ),
        Notice::Finished(summary) => ("finished", finished(summary)),
        Notice::Note { message } => ("note", json!({ "message": clean_line(message) })),
        Notice::Detail { message } => ("detail", json!({ "message": clean_line(message) })),
    }
}

fn finished(summary: &Summary) -> Value {
    json!({
        "outcome": summary.outcome.as_str(),
        "exit_code": summary.exit_code,
        "waited_seconds": seconds(summary.waited),
        "held_seconds": seconds(summary.held),
        "holder": summary.holder.as_deref().map(holder_of),
    })
}

fn clean_hint(hint: &str) -> String {
    hint_lines(hint).collect::<Vec<_>>().join("\n")
}

pub(super) fn holder_of(info: &LockInfo) -> Value {
    json!({
        "id": clean(&info.id.0),
        "operation": clean(&info.operation),
        "info": clean(&info.info),
        "who": clean(&info.who),
        "version": clean(&info.version),
        "created": clean(&info.created),
        "path": clean(&info.path),
    })
}

/// Seconds with milliseconds: more would be noise.
pub(super) fn seconds(time: Duration) -> Value {
    json!((time.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Escapes what a CI log or a terminal would act on. Such text can only be within a string here,
/// and to a JSON reader the escapes mean the same.
pub(super) fn escape(json: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(json.len());
    let mut last = '\0';
    for c in json.chars() {
        if is_unsafe(c) || pairs(last, c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
        last = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{RunOutcome, hostile};

    fn now() -> Timestamp {
        "2026-11-21T09:16:11.5Z".parse().unwrap()
    }

    fn acquired(lock: &str) -> Notice {
        Notice::Acquired {
            lock: lock.into(),
            id: "28e8a6c8".into(),
            waited: Duration::from_millis(1234),
            contended: true,
        }
    }

    #[test]
    fn a_line_has_its_head_then_its_own_fields() {
        assert_eq!(
            Json::default().render(&acquired("tfb/a"), now()),
            "{\"ts\":\"2026-11-21T09:16:11.500Z\",\"event\":\"acquired\",\"lock\":\"tfb/a\",\
             \"id\":\"28e8a6c8\",\"waited_seconds\":1.234,\"contended\":true}\n"
        );
    }

    #[test]
    fn later_lines_name_the_lock_last_spoken_of() {
        let mut json = Json::default();
        let warning = Notice::Warning { message: "x".into(), hint: None };
        let parse = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        assert_eq!(parse(json.render(&warning, now()))["id"], Value::Null);
        let _ = json.render(&acquired("tfb/a"), now());
        let line = parse(json.render(&warning, now()));
        assert_eq!((&line["lock"], &line["id"]), (&json!("tfb/a"), &json!("28e8a6c8")));
    }

    #[test]
    fn a_hostile_record_stays_one_harmless_object() {
        let mut json = Json::default();
        for notice in super::super::tests::hostile_notices() {
            let line = json.render(&notice, now());
            let body = line.strip_suffix('\n').unwrap();
            hostile::assert_harmless(body);
            let value: Value = serde_json::from_str(body).unwrap();
            let holder = &value["holder"];
            for (name, field) in holder.as_object().into_iter().flatten() {
                hostile::assert_harmless(field.as_str().unwrap());
                assert!(field.as_str().unwrap().chars().count() <= 200, "{name}");
            }
        }
    }

    #[test]
    fn the_reference_lists_every_event() {
        let reference = include_str!("../../docs/reference.md");
        for notice in super::super::tests::hostile_notices() {
            let (event, fields) = event_of(&notice);
            let row = reference
                .lines()
                .find(|line| line.starts_with(&format!("| `{event}` |")))
                .unwrap_or_else(|| panic!("no row for `{event}` in the reference"));
            for name in fields.as_object().unwrap().keys() {
                assert!(row.contains(&format!("`{name}`")), "`{name}` is missing in {row}");
            }
        }
        assert!(reference.contains("| `dropped` | `count`"));
    }

    #[test]
    fn the_schema_has_every_event_and_field_and_no_other() {
        let schema: Value =
            serde_json::from_str(include_str!("../../docs/json-log.schema.json")).unwrap();
        let notices = super::super::tests::hostile_notices();
        let mut events: Vec<_> = notices.iter().map(event_of).collect();
        events.push(("dropped", json!({ "count": 1 })));
        let mut known = schema["properties"]["event"]["enum"].as_array().unwrap().clone();
        for (event, fields) in &events {
            let defined = &schema["$defs"][event];
            assert_eq!(defined["properties"]["event"]["const"], *event);
            let of = |value: &Value| -> Vec<String> {
                value.as_object().unwrap().keys().filter(|it| *it != "event").cloned().collect()
            };
            assert_eq!(of(&defined["properties"]), of(fields), "{event}");
            assert_eq!(defined["required"], json!(of(fields)), "{event}");
            known.retain(|it| it != event);
        }
        assert!(known.is_empty(), "nothing says {known:?}");
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), events.len());
        let known = &schema["$defs"]["finished"]["properties"]["outcome"]["enum"];
        let outcomes = RunOutcome::ALL.map(RunOutcome::as_str);
        assert_eq!(*known, json!(outcomes));
    }

    proptest! {
        #![proptest_config(crate::seeded::seeded(256))]

        #[test]
        fn the_lock_comes_back_exactly(lock in hostile::any_text()) {
            let line = Json::default().render(&acquired(&lock), now());
            hostile::assert_harmless(line.trim_end_matches('\n'));
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["lock"].as_str().unwrap(), lock);
        }
    }
}
