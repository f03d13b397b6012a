#!/usr/bin/env python3
"""Asks `albef serve` at fixed rates and prints what was answered, and how soon.

    scripts/load_service.py http://127.0.0.1:8080 --seconds 15

First one client asks as fast as it is answered, which gives the rate that the service can do; then requests are sent at 0.5, 1
and 2 times that rate, whether earlier ones were answered or not. Standard library only.
"""

import argparse
import http.client
import json
import threading
import time
import urllib.parse

QUERIES = ["a dog", "a red apple", "a house by the sea", "two people", "a green tree", "a car", "the moon", "a smiling face"]


def ask(host: str, number: int, out: list) -> None:
    """One search, with its status and seconds."""
    body = json.dumps({"query": QUERIES[number % len(QUERIES)], "top_k": 10, "rerank_k": 4})
    started = time.perf_counter()
    try:
        connection = http.client.HTTPConnection(host, timeout=90)
        connection.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        good = response.status != 200 or len(json.loads(text)["results"]) == 10
        status = response.status if good else "wrong"
        connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        status = type(error).__name__
    out.append((status, time.perf_counter() - started))


def quantile(values: list, share: float) -> float:
    """The value below which that share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def report(name: str, seconds: float, found: list) -> None:
    """A line of a table."""
    good = [took for status, took in found if status == 200]
    refused = [took for status, took in found if status == 429]
    other = len(found) - len(good) - len(refused)
    print(
        f"| {name} | {len(found) / seconds:.1f} | {len(good) / seconds:.1f} | {1e3 * quantile(good, 0.5):.0f} "
        f"| {1e3 * quantile(good, 0.99):.0f} | {len(refused)} | {1e3 * quantile(refused, 0.99):.0f} | {other} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    host = urllib.parse.urlparse(options.address).netloc
    print("| load | requests/s | answered/s | p50 ms | p99 ms | 429 | p99 of 429, ms | other |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found: list = []
    end = time.perf_counter() + options.seconds
    number = 0
    while time.perf_counter() < end:
        ask(host, number, found)
        number += 1
    rate = len(found) / options.seconds
    report("one client", options.seconds, found)
    for factor in (0.5, 1.0, 2.0):
        found, threads = [], []
        started = time.perf_counter()
        for number in range(int(options.seconds * rate * factor)):
            wait = started + number / (rate * factor) - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            thread = threading.Thread(target=ask, args=(host, number, found))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        report(f"{factor} of that", time.perf_counter() - started, found)


if __name__ == "__main__":
    main()
