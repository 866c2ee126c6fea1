//! What is said while the lock is somebody else's: the whole sentence for a log, and a short one
//! for the line that is redrawn.

use std::time::Duration;

use jiff::Timestamp;

use super::Notice;
use super::clean::clean;
use super::text::{describe_holding, describe_who, human};

/// One beat is at most 15 s; only a longer silence is worth a word.
const SILENCE: Duration = Duration::from_secs(30);

/// Everything that is known, for a line of its own; nothing for other notices.
pub(super) fn sentence(notice: &Notice, now: Timestamp) -> Option<String> {
    let Notice::Waiting {
        lock,
        holder,
        waited,
        limit,
        free,
        ahead,
        plans_ahead,
        silent,
        unanswered,
        estimate,
    } = notice
    else {
        return None;
    };
    let holder = if *free {
        "nobody has it, and it is left to those before us".to_owned()
    } else {
        describe_holding(holder.as_deref(), now)
    };
    let place = format!("{}{}", place(*ahead), plans(*plans_ahead));
    let silence = format!("{}{}", last_seen(*unanswered), silence(*silent));
    let holder = format!("{holder}{silence}{place}{}", to_go(*estimate));
    let (lock, limit) = (clean(lock), human(*limit));
    // The first line comes at once.
    Some(if *waited < Duration::from_secs(1) {
        format!("waiting for the lock `{lock}`: {holder}; waiting up to {limit}")
    } else {
        format!(
            "still waiting for the lock `{lock}`: {holder}; waited {} of {limit}",
            human(*waited)
        )
    })
}

/// What changes, the most wanted first: a narrow terminal shows the beginning only. `later` is how
/// long after the notice this is said.
pub(super) fn short(notice: &Notice, later: Duration) -> Option<String> {
    let Notice::Waiting {
        holder, waited, limit, free, ahead, silent, unanswered, estimate, ..
    } = notice
    else {
        return None;
    };
    let unnamed = || if *free { "free" } else { "held" }.to_owned();
    let holder = holder.as_deref().map_or_else(unnamed, describe_who);
    let estimate = estimate.map(|estimate| estimate.saturating_sub(later));
    Some(format!(
        "waited {} of {}{}{}; {holder}{}{}",
        // Whole seconds, each shown when it is over.
        human(Duration::from_secs((*waited + later).as_secs())),
        human(*limit),
        to_go(estimate),
        place(*ahead),
        last_seen(unanswered.map(|unanswered| unanswered + later)),
        silence(silent.map(|silent| silent + later)),
    ))
}

fn silence(silent: Option<Duration>) -> String {
    let silent = silent.filter(|silent| *silent >= SILENCE);
    silent.map_or_else(String::new, |silent| format!(", no heartbeat for {}", human(silent)))
}

/// Where nobody has answered since, it may be over.
fn last_seen(unanswered: Option<Duration>) -> String {
    unanswered.map_or_else(String::new, |ago| format!(", last seen {} ago", human(ago)))
}

fn place(ahead: Option<u64>) -> String {
    match ahead {
        None => String::new(),
        Some(0) => "; we are next".to_owned(),
        Some(ahead) => format!("; {ahead} ahead of us"),
    }
}

fn plans(ahead: Option<u64>) -> String {
    match ahead {
        None | Some(0) => String::new(),
        Some(1) => " (1 plan)".to_owned(),
        Some(plans) => format!(" ({plans} plans)"),
    }
}

/// No more exact than it can be. When the time is over there is nothing left to say.
fn to_go(estimate: Option<Duration>) -> String {
    let Some(seconds) = estimate.map(|estimate| estimate.as_secs()).filter(|it| *it > 0) else {
        return String::new();
    };
    let step = match seconds {
        ..=10 => 1,
        11..=120 => 10,
        _ => 60,
    };
    let about = seconds.saturating_add(step / 2) / step * step;
    format!("; about {} to go", human(Duration::from_secs(about)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn waiting(waited: u64) -> Notice {
        Notice::Waiting {
            lock: "tfb/a".into(),
            holder: None,
            waited: Duration::from_secs(waited),
            limit: 30 * MINUTE,
            free: false,
            ahead: Some(2),
            plans_ahead: Some(1),
            silent: Some(Duration::from_secs(90)),
            unanswered: None,
            estimate: Some(Duration::from_secs(244)),
        }
    }

    #[test]
    fn a_waiter_in_line_learns_its_place_the_time_and_of_a_silent_holder() {
        let text = sentence(&waiting(0), Timestamp::UNIX_EPOCH).unwrap();
        let end = "whom, no heartbeat for 1m30s; 2 ahead of us (1 plan); about 4m to go; waiting up to 30m";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn whoever_had_a_lock_that_is_free_is_not_named() {
        let mut notice = waiting(61);
        if let Notice::Waiting { free, silent, estimate, .. } = &mut notice {
            (*free, *silent, *estimate) = (true, None, None);
        }
        assert_eq!(
            sentence(&notice, Timestamp::UNIX_EPOCH).unwrap(),
            "still waiting for the lock `tfb/a`: nobody has it, and it is left to those before us; \
             2 ahead of us (1 plan); waited 1m1s of 30m"
        );
        assert_eq!(
            short(&notice, Duration::ZERO).unwrap(),
            "waited 1m1s of 30m; 2 ahead of us; free"
        );
    }

    #[test]
    fn the_short_line_goes_on_by_itself() {
        assert_eq!(
            short(&waiting(10), Duration::from_millis(62_900)).unwrap(),
            "waited 1m12s of 30m; about 3m to go; 2 ahead of us; held, no heartbeat for 2m33s"
        );
        let late = short(&waiting(10), 10 * MINUTE).unwrap();
        assert!(late.starts_with("waited 10m10s of 30m; 2 ahead of us; held"), "{late}");
    }

    #[test]
    fn an_estimate_is_round() {
        let cases = [
            (0, ""),
            (7, "; about 7s to go"),
            (14, "; about 10s to go"),
            (116, "; about 2m to go"),
            (149, "; about 2m to go"),
            (4000, "; about 1h7m to go"),
        ];
        for (seconds, text) in cases {
            assert_eq!(to_go(Some(Duration::from_secs(seconds))), text);
        }
        assert_eq!(to_go(None), "");
    }
}
