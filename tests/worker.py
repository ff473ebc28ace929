"""A side for the laws of races: it sleeps, and writes down that it did."""

import time

from scripts.peers.serve import serve, settings

if __name__ == "__main__":
    given = settings()
    log = given["log"]

    def step():
        with open(log, "a") as file:
            print(given["name"], file=file)
        print("not an answer")
        time.sleep(given["sleep"] / 1000)
        return 1

    serve(step, lambda: {"settings": given})
