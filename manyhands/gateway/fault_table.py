"""The faults as a table: `python -m manyhands.gateway.fault_table` prints it for the docs."""

from manyhands.gateway.faults import FAULTS


def table() -> str:
    rows = ["| status | code | when |", "|---|---|---|"]
    rows += [f"| {fault.status} | `{code}` | {fault.when} |" for code, fault in FAULTS.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
