use super::*;

fn resolve(options: &Options, env: &[(&str, &str)], yaml: &str) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".tfwrap.yaml");
    std::fs::write(&path, yaml).unwrap();
    let file = ConfigFile::named(&path)?;
    let env: Env = env.iter().copied().collect();
    Settings::resolve(&Inputs { options, env: &env, file: Some(&file), in_ci: false })
}

fn options(lock_timeout: &str) -> Options {
    Options { lock_timeout: Some(lock_timeout.to_owned()), ..Options::default() }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let env = [("TFWRAP_LOCK_TIMEOUT", "2m")];
    let yaml = "lock-timeout: 3m\n";
    let of = |options: &Options, env: &[_], yaml| {
        let timeout = resolve(options, env, yaml).unwrap().lock_timeout;
        (timeout.value.as_secs() / 60, timeout.origin.to_string())
    };
    assert_eq!(of(&options("1m"), &env, yaml), (1, "`--lock-timeout`".to_owned()));
    assert_eq!(of(&Options::default(), &env, yaml), (2, "`TFWRAP_LOCK_TIMEOUT`".to_owned()));
    let (value, origin) = of(&Options::default(), &[], yaml);
    assert!(value == 3 && origin.ends_with(".tfwrap.yaml` line 1"), "{origin}");
    assert_eq!(of(&Options::default(), &[], ""), (30, "the default".to_owned()));
}

#[test]
fn an_error_names_where_the_value_was_set() {
    let error = resolve(&options("90"), &[], "").unwrap_err();
    assert!(
        error.fault == Fault::Typed
            && error.message.starts_with("`--lock-timeout`: `90` is not a duration")
    );
    let error = resolve(&Options::default(), &[("TFWRAP_LEASE", "5s")], "").unwrap_err();
    assert!(
        error.fault != Fault::Typed
            && error.message.starts_with("`TFWRAP_LEASE`: `5s` is too short")
    );
    let error = resolve(&Options::default(), &[], "\ngrace: soon\n").unwrap_err();
    assert!(error.fault != Fault::Typed && error.message.contains(".tfwrap.yaml` line 2: `soon`"));
    let error = resolve(&Options::default(), &[("TFWRAP_NO_LINE", "perhaps")], "").unwrap_err();
    assert!(error.message.contains("neither `true` nor `false`"));
    let error = resolve(&Options::default(), &[], "lock-timeout: 90\n").unwrap_err();
    assert!(error.message.contains("`90` is not a duration: a unit is missing"));
}

#[test]
fn defaults_differ_in_ci() {
    let (options, env) = (Options::default(), Env::default());
    let of = |in_ci| {
        Settings::resolve(&Inputs { options: &options, env: &env, file: None, in_ci }).unwrap()
    };
    assert_eq!(of(false).second_signal.value, SecondSignal::Forward);
    assert_eq!(of(false).lease.value, LeaseTerm::Never);
    assert_eq!(of(true).second_signal.value, SecondSignal::Hold);
    assert_eq!(of(true).lease.value, LeaseTerm::After(Duration::from_mins(10)));
}

#[test]
fn locks_come_from_one_source() {
    let env = [("TFWRAP_LOCK", "file:///a  file:///b")];
    let of_env = resolve(&Options::default(), &env, "lock: [file:///c]\n").unwrap().locks;
    assert_eq!(of_env.len(), 2);
    let of_file = resolve(&Options::default(), &[], "lock: file:///c\n").unwrap().locks;
    assert_eq!(of_file[0].value.place.to_string(), "file:///c");
}

#[test]
fn colour_follows_the_conventions() {
    let of = |env: &[_], yaml| resolve(&Options::default(), env, yaml).unwrap().color;
    assert_eq!(of(&[], ""), ColorChoice::Auto);
    assert_eq!(of(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], ""), ColorChoice::Never);
    assert_eq!(of(&[("CLICOLOR_FORCE", "1")], ""), ColorChoice::Always);
    assert_eq!(of(&[("CLICOLOR_FORCE", "0")], "color: never\n"), ColorChoice::Never);
    let typed = Options { color: Some("always".to_owned()), ..Options::default() };
    assert_eq!(resolve(&typed, &[("NO_COLOR", "1")], "").unwrap().color, ColorChoice::Always);
}
