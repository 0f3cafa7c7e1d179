//! The table of the admin API: what there is, what it takes, and everything that it answers. What is
//! done, handlers decide.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use http::StatusCode;
use stek_http::api::{Api, Operation, Route};
use stek_wire::admin::{
    AuditList, CostDocument, EffectDocument, GrantEntry, GrantList, KeysetDocument, KeysetList,
    MAX_REQUEST_BYTES, PlanDocument, RatchetDocument, StateDocument, TerminatorsDocument,
    TokenDocument, TokenList, VerdictDocument,
};
use stek_wire::schema;

use super::revoke::DryRun;
use super::{ListQuery, PlanQuery, audit, grants, ratchet, revoke, terminators};
use crate::operations::Operations;

const OK: StatusCode = StatusCode::OK;
const CREATED: StatusCode = StatusCode::CREATED;
const ACCEPTED: StatusCode = StatusCode::ACCEPTED;
const NO_CONTENT: StatusCode = StatusCode::NO_CONTENT;
const BAD_REQUEST: StatusCode = StatusCode::BAD_REQUEST;
const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
const NOT_FOUND: StatusCode = StatusCode::NOT_FOUND;
const CONFLICT: StatusCode = StatusCode::CONFLICT;
const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

const READS: &str = "Role `operator` or `auditor`, on all keysets.";
const READS_ONE: &str = "Role `operator` or `auditor` on the keyset.";
const CHANGES: &str = "Role `operator` on all keysets.";
const CHANGES_ONE: &str = "Role `operator` on the keyset. With `dry_run` nothing is changed.";
const COST_OR_EFFECT: &str = "What was done; with `dry_run` what it would cost";

/// The routes with their descriptions, for a listener of operators.
pub(crate) fn api(operations: Arc<Operations>) -> Api {
    Api::new()
        .merge(keysets())
        .merge(audit_trail())
        .merge(ratchets())
        .merge(access())
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(axum::middleware::map_response(super::no_store))
        .with_state(operations)
}

type Table = Api<Arc<Operations>>;

fn keysets() -> Table {
    let list = Operation::new("listKeysets", "Lists keysets by name, a page at a time")
        .about("Role `operator` or `auditor` on at least one keyset; others are left out.")
        .query::<ListQuery>()
        .json::<KeysetList>(OK, "A page")
        .refuses([FORBIDDEN, UNPROCESSABLE]);
    let create = Operation::new("createKeyset", "Creates a keyset")
        .about("Role `operator` on a keyset of this name.")
        .body::<schema::CreateKeyset>()
        .json::<KeysetDocument>(CREATED, "The keyset with its first keys")
        .with::<String>(CREATED, "Location", "Where it is")
        .refuses([FORBIDDEN, CONFLICT]);
    let show = one(Operation::new("showKeyset", "Shows a keyset, without secrets"))
        .about(READS_ONE)
        .json::<KeysetDocument>(OK, "The keyset");
    let remove = change(Operation::new("deleteKeyset", "Revokes all keys and deletes the keyset"))
        .query::<DryRun>();
    let policy = change(Operation::new("changePolicy", "Changes the policy of a keyset"))
        .query::<DryRun>()
        .body::<schema::ChangePolicy>();
    let rotate =
        change(Operation::new("rotateKeyset", "Activates the pending key now")).query::<DryRun>();
    let revoke = change(Operation::new("revokeKeys", "Forbids keys at once"))
        .about("Role `operator` on the keyset. Without `key` every key ends. There is no way back.")
        .body::<schema::RevokeKeys>();
    let plan = one(Operation::new("planKeyset", "Tells what the planner will do"))
        .about(READS_ONE)
        .query::<PlanQuery>()
        .json::<PlanDocument>(OK, "The steps by time");
    let holders = one(Operation::new("showTerminators", "Tells who holds which revision"))
        .about(READS_ONE)
        .query::<terminators::TerminatorsQuery>()
        .json::<TerminatorsDocument>(OK, "How far the revision has got");
    let of_one = Route::new().get(super::show, show).delete(super::remove, remove);
    Api::new()
        .route("/admin/v1/keysets", Route::new().get(super::list, list).post(super::create, create))
        .route("/admin/v1/keysets/{keyset}", of_one)
        .route("/admin/v1/keysets/{keyset}/policy", Route::new().put(super::change_policy, policy))
        .route("/admin/v1/keysets/{keyset}/rotate", Route::new().post(super::rotate, rotate))
        .route("/admin/v1/keysets/{keyset}/revoke", Route::new().post(revoke::revoke, revoke))
        .route("/admin/v1/keysets/{keyset}/plan", Route::new().get(super::plan, plan))
        .route(
            "/admin/v1/keysets/{keyset}/terminators",
            Route::new().get(terminators::show, holders),
        )
}

/// What concerns one keyset.
fn one(operation: Operation) -> Operation {
    operation.path::<schema::KeysetName>("keyset", "The keyset").refuses([
        BAD_REQUEST,
        FORBIDDEN,
        NOT_FOUND,
        UNPROCESSABLE,
    ])
}

/// What changes one keyset, or says what that would cost.
fn change(operation: Operation) -> Operation {
    one(operation)
        .about(CHANGES_ONE)
        .json_either::<EffectDocument, CostDocument>(OK, COST_OR_EFFECT)
        .refuses([CONFLICT])
}

fn audit_trail() -> Table {
    let list = Operation::new("listAuditTrail", "Lists lines of the audit trail, oldest first")
        .about("Role `operator` or `auditor`, on all keysets or on the one that is asked for.")
        .query::<audit::ListQuery>()
        .json::<AuditList>(OK, "A page")
        .refuses([FORBIDDEN, NOT_FOUND, UNPROCESSABLE]);
    let verify = Operation::new("verifyAuditTrail", "Tells whether the chain of the trail holds")
        .about(READS)
        .query::<audit::VerifyQuery>()
        .json::<VerdictDocument>(OK, "The verdict")
        .refuses([FORBIDDEN, UNPROCESSABLE]);
    Api::new()
        .route("/admin/v1/audit", Route::new().get(audit::list, list))
        .route("/admin/v1/audit/verify", Route::new().get(audit::verify, verify))
}

fn ratchets() -> Table {
    let show = Operation::new("showRatchet", "Shows seeds and who holds them, without secrets")
        .about(READS)
        .json::<RatchetDocument>(OK, "The ratchet")
        .refuses([FORBIDDEN]);
    let join = Operation::new("joinRatchet", "Hands another manager a state of the ratchet")
        .about("Role `manager` on all keysets; over TLS, or from the same machine.")
        .body::<schema::Join>()
        .json::<StateDocument>(OK, "The state, encrypted for this request")
        .refuses([FORBIDDEN, CONFLICT]);
    let reseed = Operation::new("reseedRatchet", "Begins a change of seeds")
        .about(CHANGES)
        .json::<RatchetDocument>(ACCEPTED, "The ratchet as it is now")
        .refuses([FORBIDDEN, CONFLICT]);
    let confirm =
        Operation::new("confirmClock", "Lets the ratchet go on after a jump of the clock")
            .about(CHANGES)
            .empty(NO_CONTENT, "It goes on")
            .refuses([FORBIDDEN, CONFLICT]);
    Api::new()
        .route("/admin/v1/ratchet", Route::new().get(ratchet::show, show))
        .route("/admin/v1/ratchet/join", Route::new().post(ratchet::join, join))
        .route("/admin/v1/ratchet/reseed", Route::new().post(ratchet::reseed, reseed))
        .route(
            "/admin/v1/ratchet/confirm-clock",
            Route::new().post(ratchet::confirm_clock, confirm),
        )
}

fn access() -> Table {
    let tokens = Operation::new("listTokens", "Lists tokens, without secrets")
        .about(READS)
        .json::<TokenList>(OK, "All tokens")
        .refuses([FORBIDDEN]);
    let create = Operation::new("createToken", "Makes a token known by the hash of its secret")
        .about(CHANGES)
        .body::<schema::CreateToken>()
        .json::<TokenDocument>(CREATED, "The token")
        .refuses([FORBIDDEN, CONFLICT]);
    let revoke = Operation::new("revokeToken", "Revokes a token")
        .about(CHANGES)
        .path::<schema::Uuid>("id", "The token")
        .empty(NO_CONTENT, "It is worth nothing from now on")
        .refuses([BAD_REQUEST, FORBIDDEN, NOT_FOUND]);
    let list = Operation::new("listGrants", "Lists grants by principal, keysets and role")
        .about(READS)
        .json::<GrantList>(OK, "All grants")
        .refuses([FORBIDDEN]);
    let add = Operation::new("addGrant", "Adds a grant")
        .about(CHANGES)
        .body::<schema::Grant>()
        .json::<GrantEntry>(CREATED, "The grant, which is new")
        .json::<GrantEntry>(OK, "The grant, which was there")
        .refuses([FORBIDDEN, CONFLICT]);
    let remove = Operation::new("removeGrant", "Removes a grant")
        .about(CHANGES)
        .query::<schema::Grant>()
        .empty(NO_CONTENT, "It grants nothing from now on")
        .refuses([FORBIDDEN, NOT_FOUND, UNPROCESSABLE]);
    let grants =
        Route::new().get(grants::list, list).post(grants::add, add).delete(grants::remove, remove);
    Api::new()
        .route(
            "/admin/v1/tokens",
            Route::new().get(super::tokens, tokens).post(super::create_token, create),
        )
        .route("/admin/v1/tokens/{id}", Route::new().delete(super::revoke_token, revoke))
        .route("/admin/v1/grants", grants)
}
