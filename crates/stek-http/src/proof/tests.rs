use http::Request;
use stek_core::access::{Token, TokenSecret};
use stek_core::id::KeyId;
use stek_core::name::PrincipalName;

use super::*;
use crate::Limits;

const NOW: Timestamp = Timestamp::from_unix(1_790_000_000);

fn name(text: &str) -> PrincipalName {
    PrincipalName::try_new(text).unwrap()
}

/// A token `token:edge` of these bytes that expires at [`NOW`].
fn access(number: u8) -> (Access, String) {
    let secret = TokenSecret::take_from(&mut [number; 32]);
    let token = Token {
        id: KeyId::from_bytes([number; 16]),
        principal: name("token:edge"),
        hash: secret.hash(),
        expires_at: NOW,
    };
    (Access::new(vec![token], vec![]), format!("Bearer {}", secret.expose_text()))
}

fn certificate() -> Channel {
    let principals = name("spiffe://td/edge/7").into();
    Channel::Tls(Some(Arc::new(ClientCertificate { principals, not_after: NOW })))
}

/// Who asks with these headers over this channel, `seconds` after now.
async fn who(headers: &[&str], channel: Option<Channel>, seconds: i64) -> Option<String> {
    let mut request = Request::get("/");
    for &header in headers {
        request = request.header(AUTHORIZATION, header);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    if let Some(channel) = channel {
        parts.extensions.insert(Peer { addr: ([127, 0, 0, 1], 1).into(), channel });
    }
    let proof = Proof::from_request_parts(&mut parts, &()).await.ok()?;
    let now = Timestamp::from_unix(NOW.as_unix().checked_add_signed(seconds).unwrap());
    let principals = proof.principals(&access(1).0, now).ok()?;
    assert!(!format!("{proof:?}").contains("stek_"));
    Some(principals.shown().to_string())
}

#[tokio::test]
async fn a_token_or_a_certificate_says_who_asks() {
    let (_, good) = access(1);
    let (_, unknown) = access(2);
    let (token, spiffe) = (Some("token:edge".to_owned()), Some("spiffe://td/edge/7".to_owned()));
    for (headers, channel, seconds, expected) in [
        (&[][..], None, -1, &None),
        (&[], Some(Channel::Plain), -1, &None),
        (&[], Some(Channel::Tls(None)), -1, &None),
        (&[], Some(certificate()), -1, &spiffe),
        // A certificate is good through its last second, a token until its end.
        (&[], Some(certificate()), 0, &spiffe),
        (&[], Some(certificate()), 1, &None),
        (&[&*good], Some(Channel::Plain), -1, &token),
        (&[&*good], Some(Channel::Plain), 0, &None),
        (&[&*unknown], None, -1, &None),
        // A header decides alone, also when it proves nothing.
        (&[&*good], Some(certificate()), -1, &token),
        (&[&*unknown], Some(certificate()), -1, &None),
        (&["Bearer x"], Some(certificate()), -1, &None),
        (&["Basic eDp5"], Some(certificate()), -1, &None),
        (&[""], Some(certificate()), -1, &None),
        // With two it is unclear who asks.
        (&[&*good, &*good], None, -1, &None),
    ] {
        let found = who(headers, channel.clone(), seconds).await;
        assert_eq!(&found, expected, "{channel:?} {seconds}");
    }
}

#[tokio::test]
async fn without_a_server_nothing_is_counted_and_with_one_it_is() {
    let limits = Limits { request_burst: 1, max_waiting: 1, ..Limits::default() };
    let certificate = match certificate() {
        Channel::Tls(Some(certificate)) => certificate,
        other => panic!("{other:?}"),
    };
    let kind = || Kind::Certificate(Arc::clone(&certificate));
    let who = name("spiffe://td/edge/7").into();
    let free = Proof { kind: kind(), standing: None };
    for _ in 0..100 {
        free.admit(&who).unwrap();
    }
    let standing = Some(Standing::new(Arc::new(Quotas::new(&limits))));
    let counted = Proof { kind: kind(), standing };
    counted.admit(&who).unwrap();
    assert_eq!(counted.admit(&who).unwrap_err().status(), http::StatusCode::TOO_MANY_REQUESTS);
    let _waits = counted.wait(&who).unwrap();
    assert_eq!(counted.wait(&who).unwrap_err().status(), http::StatusCode::TOO_MANY_REQUESTS);
}
