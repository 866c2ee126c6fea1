//! The content of an object: Terraform's lock info as it is, and our part as one more member of that
//! very JSON object, which stock clients skip.

use serde_json::value::RawValue;

use crate::lock::register::Record;

/// What our part begins with. Inside of a string its quotes would be escaped.
const OURS: &str = "\"tfwrap\":";

/// What stands for an info that is no JSON object, where something of ours is beside it.
const TEXT: &str = "{\"text\":";

/// Encodes a record. Without a lease it is the info, byte for byte.
pub(super) fn encode(record: &Record) -> String {
    let info = record.info.as_deref();
    let Some(lease) = &record.lease else {
        return info.unwrap_or("{}").to_owned();
    };
    let lease = if is_object(lease) { lease.clone() } else { string(lease) };
    let members = match info {
        None => String::from("{"),
        Some(info) if is_object(info) && info != "{}" => format!("{},", &info[..info.len() - 1]),
        Some(info) => format!("{TEXT}{},", string(info)),
    };
    format!("{members}{OURS}{lease}}}")
}

/// Decodes it. What is no text is a record of nobody's, and what is not in our form has no lease.
pub(super) fn decode(body: &[u8]) -> Record {
    let Ok(text) = std::str::from_utf8(body) else { return Record::default() };
    with_lease(text)
        .unwrap_or_else(|| Record { info: (text != "{}").then(|| text.to_owned()), lease: None })
}

fn with_lease(text: &str) -> Option<Record> {
    let (before, lease) = text.split_once(OURS)?;
    let lease = lease.strip_suffix('}')?;
    let lease = match serde_json::from_str::<&RawValue>(lease).ok()?.get().as_bytes().first()? {
        b'{' => lease.to_owned(),
        b'"' => serde_json::from_str(lease).ok()?,
        _ => return None,
    };
    let info = if before == "{" {
        None
    } else if let Some(text) = before.strip_prefix(TEXT) {
        Some(serde_json::from_str(text.strip_suffix(',')?).ok()?)
    } else {
        Some(before.strip_suffix(',')?.to_owned() + "}")
    };
    Some(Record { info, lease: Some(lease) })
}

/// Whether it can stand in another one as it is: nothing before its first and after its last brace.
fn is_object(text: &str) -> bool {
    text.starts_with('{') && text.ends_with('}') && serde_json::from_str::<&RawValue>(text).is_ok()
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{LockId, LockInfo};

    fn info(free_text: &str) -> String {
        let info = LockInfo {
            id: LockId("1-2-3".to_owned()),
            operation: "OperationTypeApply".to_owned(),
            info: free_text.to_owned(),
            who: "ci@runner".to_owned(),
            version: "0.1.0".to_owned(),
            created: "2026-01-02T03:04:05.6Z".to_owned(),
            path: "b/k".to_owned(),
        };
        info.to_json()
    }

    #[test]
    fn every_record_comes_back_as_it_was() {
        let infos = [
            None,
            Some(String::new()),
            Some("junk".to_owned()),
            Some("\n 7".to_owned()),
            Some("[]".to_owned()),
            Some(info("")),
            Some(info(r#"<a>,"tfwrap":{"beat":1}}"#)),
        ];
        let leases = [
            None,
            Some(String::new()),
            Some("<>&\u{2028}\"".to_owned()),
            Some(r#"{"beat":1,"ttl":60000}"#.to_owned()),
            Some(r#"{"seen":{"a":"}"}}"#.to_owned()),
        ];
        for info in &infos {
            for lease in &leases {
                let record = Record { info: info.clone(), lease: lease.clone() };
                assert_eq!(decode(encode(&record).as_bytes()), record);
            }
        }
    }

    /// Terraform's decoder, which knows seven fields and skips the rest.
    #[test]
    fn stock_clients_read_the_info_and_skip_our_part() {
        let (lease, text) = (r#"{"beat":3,"ttl":60000}"#, info("by alice"));
        let record = Record { info: Some(text.clone()), lease: Some(lease.to_owned()) };
        let body = encode(&record);
        assert_eq!(body, format!("{},\"tfwrap\":{lease}}}", text.trim_end_matches('}')));
        assert_eq!(LockInfo::parse(&body).unwrap(), LockInfo::parse(&text).unwrap());
        let bare = Record { info: Some(text.clone()), lease: None };
        assert_eq!(encode(&bare), text, "byte for byte what Terraform writes");
    }

    #[test]
    fn what_is_in_another_form_has_no_lease_and_is_held_all_the_same() {
        for body in [
            r#"{"ID":"1","tfwrap":{"beat":1},"more":2}"#,
            r#"{"ID":"1", "tfwrap": {"beat":1}}"#,
            r#"{"ID":"1","tfwrap":7}"#,
            r#"{"ID":"1","tfwrap":{"beat":1}"#,
            "\"tfwrap\":",
            "",
        ] {
            let record = Record { info: Some(body.to_owned()), lease: None };
            assert_eq!(decode(body.as_bytes()), record);
        }
        assert_eq!(decode(b"\xff{"), Record::default());
    }
}
