"""OpenAI's API over a loaded bundle: `pocketvlm serve`.

Of one request the way is: ``server`` (connections) -> ``app`` (paths, the key, bodies) -> ``schema`` (what may stand in
a request) -> ``remote`` (pictures of hosts that are allowed) -> ``worker`` (one model, a bounded queue) ->
``answering`` (messages and pictures to an answer) -> ``replies`` (what is sent back, in the ``forms``). ``openapi``
says all of it to programs. What the clients read: https://platform.openai.com/docs/api-reference/chat
"""
