//! Where tests make the program fail, or switch parts of it off. Does nothing in a release build.

/// Panics where a test asks for it by name.
pub(super) fn panic_at(name: &str) {
    assert!(!is_at(name), "fail point `{name}`");
}

/// Is told to end where a test asks for it by name.
pub(super) fn stop_at(name: &str) {
    if is_at(name) {
        let _comes_in = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
    }
}

fn is_at(name: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        #[expect(clippy::disallowed_methods, reason = "in test builds only")]
        let wanted = std::env::var_os("TFWRAP_FAIL_POINT");
        wanted.is_some_and(|wanted| wanted == *name)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

/// Numbers the places that the program passes, and kills it at the one that a test asks for with
/// `TFWRAP_CRASH_POINT`. With `TFWRAP_CRASH_COUNT_FILE`, the number so far is kept in that file.
pub(crate) fn crash() {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        #[expect(clippy::disallowed_methods, reason = "in test builds only")]
        let var = |name: &str| std::env::var(name).ok();
        if let Some(file) = var("TFWRAP_CRASH_COUNT_FILE") {
            // A test that cannot count fails by itself.
            drop(std::fs::write(file, number.to_string()));
        }
        let wanted = var("TFWRAP_CRASH_POINT").and_then(|wanted| wanted.parse().ok());
        if wanted == Some(number) {
            let _never = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Whether a test switched this off, to show what it is good for; never in a release build.
pub(super) fn is_off(what: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        #[expect(clippy::disallowed_methods, reason = "in test builds only")]
        let off = std::env::var("TFWRAP_TEST_OFF").unwrap_or_default();
        off.split(',').any(|word| word == what)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = what;
        false
    }
}
