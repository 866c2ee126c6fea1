use super::*;

fn way(no_proxy: &str, url: &str) -> bool {
    let settings = ProxySettings {
        http: Some("http://proxy.test:3128".to_owned()),
        https: Some("http://proxy.test:3128".to_owned()),
        no_proxy: Some(no_proxy.to_owned()),
        is_cgi: false,
        set_by: [None; 2],
    };
    match Proxies::of(&settings).way(url) {
        Route::Direct => false,
        Route::Through(_) => true,
        Route::Refused => panic!("no CGI"),
    }
}

const AWS: &str = "https://dynamodb.eu-west-1.amazonaws.com/";

#[test]
fn an_exempt_host_is_asked_directly() {
    for (no_proxy, url) in [
        ("*", AWS),
        ("a, *", AWS),
        ("amazonaws.com", AWS),
        (".amazonaws.com", AWS),
        ("*.amazonaws.com", AWS),
        ("*.com", AWS),
        ("com", AWS),
        ("AmazonAWS.com", AWS),
        ("dynamodb.eu-west-1.amazonaws.com:443", AWS),
        (".amazonaws.com:443", AWS),
        ("*.amazonaws.com:443", AWS),
        ("  amazonaws.com  ,b", AWS),
        ("10.0.0.2", "http://10.0.0.2:8000/"),
        ("10.0.0.2:8000", "http://10.0.0.2:8000/"),
        ("10.0.0.0/8", "http://10.0.0.2:8000/"),
        ("::ffff:10.0.0.0/104", "http://10.0.0.2:8000/"),
        ("::ffff:10.0.0.2", "http://10.0.0.2:8000/"),
        ("fd00::1", "http://[fd00::1]:8000/"),
        ("[fd00::1]:8000", "http://[fd00::1]:8000/"),
        ("fd00::/8", "http://[fd00::1]:8000/"),
        ("dynamo.test:80", "http://dynamo.test/"),
        ("dynamo.test", "http://dynamo.test:8000/"),
        ("b\u{fc}cher.test", "http://xn--bcher-kva.test/"),
        ("b\u{fc}cher.test", "http://b\u{fc}cher.test/"),
        ("", "http://localhost:8000/"),
        ("", "http://127.0.0.1:8000/"),
        ("", "http://127.9.9.9:8000/"),
        ("", "http://[::1]:8000/"),
    ] {
        assert!(!way(no_proxy, url), "{no_proxy} {url}");
    }
}

#[test]
fn every_other_host_goes_through_the_proxy() {
    for (no_proxy, url) in [
        ("", AWS),
        (",,", AWS),
        ("*amazonaws.com", AWS),
        ("**", AWS),
        ("dynamodb*", AWS),
        ("azonaws.com", AWS),
        ("*.dynamodb.eu-west-1.amazonaws.com", AWS),
        (".dynamodb.eu-west-1.amazonaws.com", AWS),
        ("amazonaws.com:80", AWS),
        ("amazonaws.com amazonaws.com", AWS),
        ("https://amazonaws.com", AWS),
        (":443", AWS),
        ("10.0.0.0/33", "http://10.0.0.2:8000/"),
        ("10.0.0.2:80", "http://10.0.0.2:8000/"),
        ("10.0.0", "http://10.0.0.2:8000/"),
        ("11.0.0.0/8", "http://10.0.0.2:8000/"),
        ("fd00::/8", "http://10.0.0.2:8000/"),
        ("localhost", "http://LOCALHOST.:8000/"),
        ("", "http://LOCALHOST:8000/"),
        ("", "http://localhost.:8000/"),
        ("", "http://a.localhost:8000/"),
        ("", "http://0.0.0.0:8000/"),
    ] {
        assert!(way(no_proxy, url), "{no_proxy} {url}");
    }
}

#[test]
fn a_proxy_is_read_as_go_reads_it() {
    let shown = |text: &str| proxy(text).map(|proxy| proxy.shown());
    for (text, expected) in [
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("HTTP://proxy.test:3128/path?query#fragment", "http://proxy.test:3128"),
        ("https://proxy.test", "https://proxy.test"),
        ("proxy.test:3128", "http://proxy.test:3128"),
        ("proxy.test", "http://proxy.test"),
        ("10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("http://jane:p%40ss@proxy.test:3128", "http://proxy.test:3128"),
        ("socks5://proxy.test:1080", "socks5://proxy.test:1080"),
        ("ftp://proxy.test:3128", "ftp://proxy.test:3128"),
        // What comes of a blank, of a bad port and the like: a host that nobody has.
        ("http://proxy.test:3128 ", "http://http"),
        ("http://proxy.test:port", "http://http"),
        (":::", "http://::"),
        (":3128", "http://:3128"),
        ("http://pr\u{f6}xy.test:3128", "http://xn--prxy-6qa.test:3128"),
    ] {
        assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
    }
    for text in
        [" http://proxy.test:3128", "http://proxy.test:3128\n", "http://a%zz:b@proxy.test:3128"]
    {
        assert_eq!(shown(text), None, "{text}");
    }
    let url = |text: &str| proxy(text).map(|proxy| proxy.url());
    for (text, expected) in [
        ("ftp://proxy.test:3128", "http://proxy.test:3128"),
        (":3128", "http://127.0.0.1:3128"),
        (":::", "http://[::]"),
    ] {
        assert_eq!(url(text).as_deref(), Some(expected), "{text}");
    }
    let jane = proxy("http://jane:p%40ss@proxy.test:3128").unwrap();
    assert_eq!(jane.url(), "http://jane:p%40ss@proxy.test:3128");
    assert!(!format!("{jane:?}").contains("p%40ss"));
}

#[test]
fn below_a_cgi_server_the_proxy_for_http_is_refused_and_that_for_https_used() {
    let settings = ProxySettings {
        http: Some("proxy.test:3128".to_owned()),
        https: Some("proxy.test:3129".to_owned()),
        no_proxy: Some("*".to_owned()),
        is_cgi: true,
        set_by: [None; 2],
    };
    let proxies = Proxies::of(&settings);
    // Before anybody asks whom it is for.
    assert_eq!(proxies.way("http://dynamo.test/"), Route::Refused);
    assert_eq!(proxies.way(AWS), Route::Direct);
    let none = Proxies::of(&ProxySettings { is_cgi: true, ..ProxySettings::default() });
    assert_eq!(none.way("http://dynamo.test/"), Route::Direct);
}

proptest::proptest! {
    /// Whatever stands in the variables, it is read.
    #[test]
    fn nothing_makes_it_panic(proxy in ".{0,40}", no_proxy in "[-*.:/\\[\\]0-9a-f,%@ \u{fc}]{0,40}", host in "[-*.:\\[\\]0-9a-f%@ \u{fc}]{0,20}") {
        let settings = ProxySettings {
            http: Some(proxy),
            https: None,
            no_proxy: Some(no_proxy),
            is_cgi: false,
            set_by: [None; 2],
        };
        let proxies = Proxies::of(&settings);
        let url = format!("http://{host}/");
        proptest::prop_assert!(proxies.way(&url) != Route::Refused);
    }
}
