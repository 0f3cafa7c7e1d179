//! The form that takes a token.

use maud::{Markup, html};

use super::{Script, document};
use crate::page::{LOGIN_PATH, STATUS_PATH};

/// What the form says beside its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignIn {
    /// Nothing was tried yet.
    First,
    /// The token was not taken.
    Refused,
    /// It is somebody's who may look at no keyset.
    NotAllowed,
    /// Too many were refused.
    TooMany,
}

pub(crate) fn sign_in(state: SignIn) -> Markup {
    let said = match state {
        SignIn::First => None,
        SignIn::Refused => Some("This token is not known, or it has expired."),
        SignIn::NotAllowed => Some("This token is neither an operator's nor an auditor's."),
        SignIn::TooMany => Some("Too many tokens were refused. Wait a minute and try again."),
    };
    let content = html! {
        main.alone id="main" {
            h1 { "stekd status" }
            form.login method="post" action=(LOGIN_PATH) {
                label for="token" { "Token of an operator or auditor" }
                input id="token" name="token" type="password" required autofocus maxlength="256"
                    autocomplete="off" spellcheck="false"
                    aria-describedby="token-help" aria-invalid=[said.map(|_| "true")];
                @if let Some(said) = said {
                    p.refused role="alert" { (said) }
                }
                p id="token-help" {
                    "The content of a token file, " code { "stek_…" }
                    ". It is looked at once; the browser keeps a session of at most 12 hours instead."
                }
                button type="submit" { "Sign in" }
            }
            p { a href=(STATUS_PATH) { "Signed in already? Go on" } }
        }
    };
    document("Sign in · stekd", Script::None, &content)
}
