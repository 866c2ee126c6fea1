//! A page with a timeline, in one file: no script, nothing from the network, light and dark. Each bar is a link
//! to the row of its run, so that a keyboard reaches it and a screen reader reads it; the table says the same
//! in words.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    LockHistory, asked, clean_line, ending, held, human, link, newest, periods, person,
    short_commit, short_operation, stamp, waited, waits,
};
use crate::lock::history::PastRun;

const STYLE: &str = include_str!("html/style.css");

/// What the page may do: look as it is written here, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// One page. At most `limit` runs.
#[must_use]
pub fn histories_as_html(histories: &[LockHistory], limit: usize, now: Timestamp) -> String {
    let shown = newest(histories, limit);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Lock history</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Lock history</h1>\n<p class=\"quiet\">As of {}, all times in UTC</p>\n",
        time(now)
    );
    for (number, history) in histories.iter().enumerate() {
        let of_this = shown.iter().filter(|(of, _)| std::ptr::eq(*of, history));
        let runs: Vec<_> = of_this.map(|(_, run)| *run).collect();
        section(&mut out, number + 1, history, &runs, now);
    }
    out + "</main>\n</body>\n</html>\n"
}

fn section(
    out: &mut String,
    number: usize,
    history: &LockHistory,
    runs: &[&PastRun],
    now: Timestamp,
) {
    let answer = history.answer(now);
    let mut first = answer.chars();
    let begin = first.next().map(|c| c.to_ascii_uppercase()).into_iter().collect::<String>();
    let _ = writeln!(
        out,
        "<section aria-labelledby=\"lock-{number}\">\n<h2 id=\"lock-{number}\"><code>{}</code></h2>\n\
         <p class=\"answer\">{}.</p>",
        escape(&clean_line(&history.lock)),
        escape(&(begin + first.as_str()))
    );
    if history.unreadable > 0 {
        let _ = writeln!(
            out,
            "<p class=\"quiet\">Entries that cannot be read: {}</p>",
            history.unreadable
        );
    }
    if !runs.is_empty() {
        timeline(out, number, runs);
        table(out, number, history, runs);
    }
    out.push_str("</section>\n");
}

fn timeline(out: &mut String, number: usize, runs: &[&PastRun]) {
    out.push_str(
        "<h3>Timeline</h3>\n<p class=\"key quiet\"><span><span class=\"wait\"></span>waited</span>\
         <span><span class=\"held\"></span>held the lock</span>\
         <span><span class=\"bad\"></span>held it and did not succeed</span></p>\n<ol>\n",
    );
    for period in periods(runs) {
        let (begin, end) = (period.begin, period.end);
        let _ = writeln!(
            out,
            "<li class=\"period\">\n<p><span>{}</span><span>{}</span></p>\n<ol>",
            time(begin),
            time(end)
        );
        for index in period.runs {
            bar(out, &format!("run-{number}-{}", index + 1), runs[index], (begin, end));
        }
        out.push_str("</ol>\n</li>\n");
    }
    out.push_str("</ol>\n");
}

fn bar(out: &mut String, id: &str, run: &PastRun, (begin, end): (Timestamp, Timestamp)) {
    let whole = (end.as_millisecond() - begin.as_millisecond()).max(1);
    let place = |from: i64, time: Duration| {
        let time = i64::try_from(time.as_millis()).unwrap_or(whole);
        // In tenths of a per mille: a number, whatever the times are.
        let [left, width] = [from, time].map(|part| (part.clamp(0, whole) * 10_000) / whole);
        format!("left:{}.{:02}%;width:{}.{:02}%", left / 100, left % 100, width / 100, width % 100)
    };
    let from = asked(run).as_millisecond() - begin.as_millisecond();
    let mut parts = String::new();
    if run.waited > 0 {
        let _ =
            write!(parts, "<span class=\"wait\" style=\"{}\"></span>", place(from, waited(run)));
    }
    if run.held.is_some() {
        let kind = if run.outcome == "success" { "held" } else { "bad" };
        let from = from.saturating_add(i64::try_from(run.waited).unwrap_or(whole));
        let _ =
            write!(parts, "<span class=\"{kind}\" style=\"{}\"></span>", place(from, held(run)));
    }
    let _ = writeln!(
        out,
        "<li><a class=\"run\" href=\"#{id}\"><span>{} <span class=\"quiet\">{}</span></span>\
         <span class=\"track\" aria-hidden=\"true\">{parts}</span><span class=\"end\">{}\
         <span class=\"away\">, asked at {}</span></span></a></li>",
        escape(&person(run)),
        escape(&short_operation(&run.operation)),
        escape(&in_short(run)),
        stamp(asked(run))
    );
}

/// What the bar shows, in words.
fn in_short(run: &PastRun) -> String {
    let mut words = Vec::new();
    if run.outcome != "success" {
        words.push(ending(run));
    }
    if waited(run) >= Duration::from_millis(500) {
        words.push(format!("waited {}", human(waited(run))));
    }
    if run.held.is_some() {
        words.push(format!("held {}", human(held(run))));
    }
    words.join(", ")
}

fn table(out: &mut String, number: usize, history: &LockHistory, runs: &[&PastRun]) {
    let _ = writeln!(
        out,
        "<h3 id=\"runs-{number}\">Runs</h3>\n\
         <div class=\"scroll\" role=\"region\" aria-labelledby=\"runs-{number}\" tabindex=\"0\">\n<table>\n\
         <caption>The last run first</caption>\n<thead><tr><th scope=\"col\">Asked</th>\
         <th scope=\"col\">Who</th><th scope=\"col\">Operation</th>\
         <th scope=\"col\" class=\"number\">Waited</th><th scope=\"col\" class=\"number\">Held</th>\
         <th scope=\"col\">Outcome</th><th scope=\"col\">Waited for</th><th scope=\"col\">Commit</th>\
         <th scope=\"col\">Run</th></tr></thead>\n<tbody>"
    );
    for (index, run) in runs.iter().enumerate() {
        let held = run.held.map_or_else(|| "never".to_owned(), |_| human(held(run)));
        let _ = writeln!(
            out,
            "<tr id=\"run-{number}-{}\"><td class=\"when\">{}</td><th scope=\"row\">{}</th><td>{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{held}</td><td>{}</td><td>{}</td>\
             <td class=\"commit\"><code>{}</code></td><td>{}</td></tr>",
            index + 1,
            time(asked(run)),
            escape(&person(run)),
            escape(&short_operation(&run.operation)),
            human(waited(run)),
            escape(&ending(run)),
            escape(&waits(history, run)),
            short_commit(run),
            linked(&link(run))
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

fn time(at: Timestamp) -> String {
    format!("<time datetime=\"{}\">{}</time>", stamp(at), at.strftime("%Y-%m-%d %H:%M:%S"))
}

/// Text whose first word is a link, if it is one for the web.
fn linked(text: &str) -> String {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let url = url::Url::parse(first).ok().filter(|url| {
        let is_web = matches!(url.scheme(), "http" | "https");
        is_web && url.username().is_empty() && url.password().is_none()
    });
    let Some(url) = url else { return escape(text) };
    let (link, shown) = (escape(url.as_str()), escape(first));
    let linked =
        format!("<a href=\"{link}\" rel=\"noopener noreferrer\">{shown}</a> {}", escape(rest));
    linked.trim_end().to_owned()
}

/// Text within an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
