use super::*;

fn request() -> PolicyRequest {
    PolicyRequest::default()
}

#[test]
fn defaults_are_those_of_the_documents() {
    let policy = Policy::try_new(&request()).unwrap();
    assert_eq!(policy.rotation_period(), Seconds::from_hours(6));
    assert_eq!(policy.ticket_lifetime(), Seconds::from_hours(6));
    assert_eq!(policy.poll_interval(), Seconds::new(60));
    assert_eq!(policy.clock_skew(), Seconds::new(60));
    assert_eq!(policy.lead(), Seconds::from_hours(6));
    assert_eq!(policy.session_lifetime(), Seconds::from_hours(24));
}

#[test]
fn the_shortest_rotation_has_working_defaults() {
    let asked = PolicyRequest { rotation_period: Some(Seconds::new(10)), ..request() };
    let asked = PolicyRequest { ticket_lifetime: Some(Seconds::new(30)), ..asked };
    let policy = Policy::try_new(&asked).unwrap();
    assert_eq!(policy.poll_interval(), Seconds::new(1));
    assert_eq!(policy.clock_skew(), Seconds::new(1));
    assert_eq!(policy.lead(), Seconds::new(10));
}

#[test]
fn a_long_ticket_lifetime_takes_the_session_lifetime_along() {
    let asked = PolicyRequest { ticket_lifetime: Some(Seconds::from_days(3)), ..request() };
    let policy = Policy::try_new(&asked).unwrap();
    assert_eq!(policy.session_lifetime(), Seconds::from_days(3));
}

#[test]
fn each_limit_holds_at_both_ends() {
    type Set = fn(&mut PolicyRequest, Seconds);
    let fields: [(&str, Set, (Seconds, Seconds)); 4] = [
        ("rotation_period", |r, v| r.rotation_period = Some(v), ROTATION_PERIOD_LIMITS),
        ("ticket_lifetime", |r, v| r.ticket_lifetime = Some(v), TICKET_LIFETIME_LIMITS),
        ("poll_interval", |r, v| r.poll_interval = Some(v), POLL_INTERVAL_LIMITS),
        ("clock_skew", |r, v| r.clock_skew = Some(v), CLOCK_SKEW_LIMITS),
    ];
    for (name, set, (min, max)) in fields {
        for value in [min - Seconds::new(1), max + Seconds::new(1)] {
            let mut asked = request();
            set(&mut asked, value);
            let error = Policy::try_new(&asked).unwrap_err();
            assert_eq!(error, PolicyError::OutOfLimits { field: name, value, min, max });
        }
    }
}

#[test]
fn the_session_outlives_the_ticket() {
    let asked = PolicyRequest { session_lifetime: Some(Seconds::from_hours(5)), ..request() };
    let error = Policy::try_new(&asked).unwrap_err();
    assert_eq!(error.to_string(), "session_lifetime is 5h, allowed is 6h to 7d");
    assert_eq!(error.field(), "session_lifetime");
}

#[test]
fn the_lead_allows_for_delivery_and_no_more_than_three_rotations() {
    let asked = PolicyRequest { lead: Some(Seconds::new(359)), ..request() };
    let error = Policy::try_new(&asked).unwrap_err();
    assert_eq!(
        error.to_string(),
        "lead is 359s, must be at least 4 × poll_interval (1m) + 2 × clock_skew (1m) = 6m"
    );
    let asked = PolicyRequest { lead: Some(Seconds::new(360)), ..request() };
    assert!(Policy::try_new(&asked).is_ok());
    let asked = PolicyRequest { lead: Some(Seconds::from_hours(18)), ..request() };
    assert!(Policy::try_new(&asked).is_ok());
    let asked = PolicyRequest { lead: Some(Seconds::new(64_801)), ..request() };
    let error = Policy::try_new(&asked).unwrap_err();
    assert_eq!(error.to_string(), "lead is 64801s, must be at most 3 × rotation_period (6h) = 18h");
}

#[test]
fn live_keys_are_bounded() {
    let asked = PolicyRequest {
        rotation_period: Some(Seconds::new(10)),
        ticket_lifetime: Some(Seconds::new(2000)),
        ..request()
    };
    let error = Policy::try_new(&asked).unwrap_err();
    assert!(matches!(error, PolicyError::TooManyKeys { keys: 202, .. }), "{error}");
    let asked = PolicyRequest { ticket_lifetime: Some(Seconds::new(1989)), ..asked };
    assert!(Policy::try_new(&asked).is_ok());
}

#[test]
fn every_error_says_field_value_and_what_is_allowed() {
    let seconds = |number| Some(Seconds::new(number));
    for (asked, field, value, allowed) in [
        (PolicyRequest { clock_skew: seconds(601), ..request() }, "clock_skew", 601, "1s to 10m"),
        (PolicyRequest { lead: seconds(359), ..request() }, "lead", 359, "at least 6m"),
        (PolicyRequest { lead: seconds(64_801), ..request() }, "lead", 64_801, "at most 18h"),
        (
            PolicyRequest { rotation_period: seconds(60), lead: seconds(180), ..request() },
            "rotation_period",
            60,
            "at least 1/200 of lead (3m)",
        ),
    ] {
        let error = Policy::try_new(&asked).unwrap_err();
        assert_eq!((error.field(), error.value()), (field, Seconds::new(value)));
        assert!(error.allowed().starts_with(allowed), "{}", error.allowed());
    }
}

#[test]
fn an_activation_waits_for_all_and_a_lead_at_most() {
    let policy = Policy::default();
    assert_eq!(policy.activation_quorum(), ActivationQuorum::All);
    assert_eq!(policy.activation_deadline(), policy.lead());
    let asked = |seconds| PolicyRequest {
        activation_deadline: Some(Seconds::new(seconds)),
        ..PolicyRequest::default()
    };
    for good in [122, 21_600] {
        assert_eq!(
            Policy::try_new(&asked(good)).unwrap().activation_deadline(),
            Seconds::new(good)
        );
    }
    for bad in [121, 21_601] {
        let error = Policy::try_new(&asked(bad)).unwrap_err();
        assert_eq!(error.field(), "activation_deadline");
        assert_eq!(error.allowed(), "122s to 6h");
    }
}
