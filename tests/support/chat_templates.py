"""Chat templates of the kinds that published models have: each written for this project after a family's conventions.

``TEMPLATES`` become layouts; ``REFUSED`` cannot, each with words of the reason. The tokens are those of ``TOKENS``.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None}


#: After LLaVA's: a message's images come before its texts, each with something around it.
_TEXTS = "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}TEXT{% endfor %}"
_MESSAGE = (
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}IMAGE{% endfor %}"
    "{% if m['role'] != 'assistant' %}" + _TEXTS + "{% else %}"
    + _TEXTS.replace("TEXT", "{% generation %}TEXT{% endgeneration %}") + "{% endif %}"
)  # fmt: skip
LLAVA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] | upper + ': ' }}{% endif %}"
    + _MESSAGE.replace("IMAGE", "{{ '<image>\n' }}").replace("TEXT", "{{ part['text'] + ' ' }}")
    + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAVA_MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + m['content'][0]['text'] + '\n<</SYS>>\n\n' }}{% else %}"
    "{{ '[INST] ' if m['role'] == 'user' else ' ' }}"
    + _MESSAGE.replace("IMAGE", "{{ '<image>\n' }}").replace("TEXT", "{{ part['text'] }}")
    + "{{ ' [/INST]' if m['role'] == 'user' else '</s>' }}{% endif %}{% endfor %}"
)
LLAVA_ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    + _MESSAGE.replace("IMAGE", "{{ '<image>' }}").replace("TEXT", "{{ '\n' + part['text'] }}")
    + "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: As FastVLM's: a system message where none is given, images before texts.
FAST_VLM = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    + _MESSAGE.replace("IMAGE", "{{ '<image>' }}").replace("TEXT", "{{ '\n' + part['text'] }}")
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: ChatML as Qwen2's tokenizer has it, a picture as a token and a line break in its text.
LLAVA_QWEN2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: As Qwen2-VL's and 2.5's checkpoints have it.
QWEN_VL = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: As Qwen3-VL's have it where no tools are given: without a system message of their own.
QWEN3_VL = QWEN_VL.replace(
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}",
    "",
)


@dataclass(frozen=True)
class Kind:
    """``system``: whether the layout has that role. ``note``: words of what is to be said of it."""

    template: str
    system: bool = True
    note: str = ""
    default_system: str | None = None


#: Calls in Hermes' form, as Qwen2.5's and 3's checkpoints have it. ``SYSTEM``: what stands where no message of it does.
_SYSTEM_TEXT = "{% if messages[0].role == 'system' %}{{ messages[0].content + END }}{% else %}SYSTEM{% endif %}"
HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}" + _SYSTEM_TEXT.replace("END", "'\n\n'")
    + "{{- '# Tools\n\nYou may call functions.\n<tools>' }}"
    "{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}{{- '\n</tools>\n\nAs JSON.<|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- else %}PLAIN{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\n' + m.content }}"
    "{%- for call in m.tool_calls or [] %}{%- if m.content or not loop.first %}{{- '\n' }}{%- endif %}"
    "{{- '<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' }}"
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)  # fmt: skip
QWEN3_TOOLS = HERMES.replace("SYSTEM", "").replace("PLAIN", "")
QWEN25_TOOLS = HERMES.replace("SYSTEM", "{{- 'You are Q.\n\n' }}").replace(
    "PLAIN", "{{- '<|im_start|>system\nYou are Q.<|im_end|>\n' }}"
)
#: With the tools before the last question, as Mistral's have it.
LATE_TOOLS = (
    "{% for m in messages %}{% if loop.last and tools %}{{ '[TOOLS]' }}{{ tools | tojson }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CHATML_TURN = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
CHATML_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + CHATML_TURN + "{% endfor %}" + CHATML_ASK
ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('they take turns') }}{% endif %}"
)
#: After a first system message is taken out of them.
REST = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = SYSTEM %}{% endif %}"
)
HEADER = "{{ '<|start|>' + m['role'] + '<|end|>\\n\\n' + m['content'] | trim + '<|eot|>' }}"
LLAMA32_REST = (
    "{{ '<|start|>system<|end|>\\n\\n' }}{% if tools is not none %}{{ 'Environment: tools\\n' }}{% endif %}"
    "{{ 'Knowledge: December 2023\\nToday: ' + date + '\\n\\n' + system + '<|eot|>' }}"
    "{% for m in rest %}" + HEADER + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}"
)
LLAMA32_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
GEMMA_TURNS = (
    "{% for m in rest %}" + ALTERNATE + "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + (opening if loop.first else '') }}"
    "{{ m['content'] | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL_TURNS = (
    "{% for m in rest %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ '[INST]' + (system + '\\n\\n' if loop.last and system else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
DROPS_REASONING = (
    "{% for m in messages %}{% set content = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}" + CHATML_ASK
)

TEMPLATES = {
    "chatml": Kind(CHATML),
    "qwen2": Kind(
        CHATML.replace(
            CHATML_TURN,
            "{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}" + CHATML_TURN,
        ),
        default_system="You are a helpful assistant.",
    ),
    "qwen2.5 with tools and documents": Kind(
        "{% if tools %}{{ '# Tools' }}{% endif %}{% if documents is not none %}{{ '# Documents' }}{% endif %}"
        "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are Q.<|im_end|>\\n' }}{%- endif %}"
        "{%- for m in messages %}{%- if m.role in ('user', 'system') or not m.tool_calls %}"
        + CHATML_TURN.replace("{{", "{{-")
        + "{%- endif %}{%- endfor %}"
        + CHATML_ASK,
        default_system="You are Q.",
        note="takes no tools",
    ),
    "qwen 3 with tools": Kind(QWEN3_TOOLS),
    "qwen2.5 with tools": Kind(QWEN25_TOOLS, default_system="You are Q."),
    "tools before the last question": Kind(LATE_TOOLS, note="takes no tools"),
    "llama 3": Kind(
        "{% for m in messages %}{% set content = '<|start|>' + m['role'] + '<|end|>\\n\\n' %}"
        "{% set content = content + m['content'] | trim + '<|eot|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}"
    ),
    "llama 3.2, a fixed date": Kind(
        LLAMA32_SYSTEM + "{% set date = '26 Jul 2024' %}" + LLAMA32_REST, default_system="", note="takes no tools"
    ),
    "llama 3.2": Kind(
        LLAMA32_SYSTEM + "{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}"
        "{% else %}{% set date = '26 Jul 2024' %}{% endif %}" + LLAMA32_REST,
        default_system="",
        note="where there is no clock",
    ),
    "llama 2": Kind(
        REST.replace("SYSTEM", "false") + "{% for m in rest %}" + ALTERNATE + "{% if loop.first and system != false %}"
        "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
        "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "minicpm": Kind(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<用户>' + m['content'].strip() + '<AI>' }}"
        "{% else %}{{ m['content'].strip() }}{% endif %}{% endfor %}"
    ),
    "phi 3": Kind(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
    ),
    "gemma": Kind(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% set rest = messages %}{% set opening = '' %}" + GEMMA_TURNS,
        system=False,
    ),
    "gemma 3": Kind(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set opening = messages[0]['content'] + '\\n\\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set opening = '' %}{% set rest = messages %}{% endif %}"
        + GEMMA_TURNS
    ),
    "mistral": Kind(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token}}"
        "{% else %}{{ raise_exception('no system messages') }}{% endif %}{% endfor %}",
        system=False,
    ),
    "mistral, system in the last question": Kind(
        "{{ bos_token }}" + REST.replace("SYSTEM", "''") + MISTRAL_TURNS,
        system=False,
        note="takes no system messages",
    ),
    "smollm 3": Kind(
        "{% if messages[0].role == 'system' %}{% set own = messages[0].content.replace('/no_think', '') %}{% endif %}"
        "{{ '<|im_start|>system\\nToday: ' + strftime_now('%d %B %Y') + '\\n' }}"
        "{% if own %}{{ own }}{% else %}{{ 'You are S.' }}{% endif %}{{ '<|im_end|>\\n' }}"
        "{% for m in messages %}{% if m.role == 'user' %}" + CHATML_TURN + "{% elif m.role == 'assistant' %}"
        "{% generation %}{{ '<|im_start|>assistant\\n' + m.content.lstrip('\\n') + '<|im_end|>\\n' }}"
        "{% endgeneration %}"
        "{% endif %}{% endfor %}" + CHATML_ASK,
        system=False,
        note="the bundle keeps that of this export",
    ),
    "qwen 3": Kind(
        "{%- set ns = namespace(looking=true, last=messages | length - 1) %}{%- for m in messages[::-1] %}"
        "{%- if m.role == 'user' and ns.looking %}{%- set ns.looking = false %}"
        "{%- set ns.last = messages | length - 1 - loop.index0 %}{%- endif %}{%- endfor %}"
        "{%- for m in messages %}{%- set content = m.content if m.content is string else '' %}"
        "{%- if m.role == 'assistant' %}{%- set reasons = '' %}{%- if '</think>' in content %}"
        "{%- set reasons = content.split('</think>')[0].split('<think>')[-1] %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{{- '<|im_start|>assistant\\n' }}{%- if loop.index0 > ns.last %}"
        "{{- '<think>\\n' + reasons + '\\n</think>\\n\\n' }}{%- endif %}{{- content + '<|im_end|>\\n' }}"
        "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
        "{%- endif %}{%- endif %}"
    ),
    "drops reasoning": Kind(DROPS_REASONING),
    "drops reasoning and nothing else": Kind(DROPS_REASONING.replace(".lstrip('\\n')", "")),
    "drops reasoning and white space": Kind(DROPS_REASONING.replace(".lstrip('\\n')", ".lstrip()")),
    "the end of a dialogue is unlike its middle": Kind(
        "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
        "{{ m.content + '<|im_end|>\\n' }}{% else %}"
        + CHATML_TURN
        + "{% endif %}{% endfor %}"
        + CHATML_ASK
        + "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    ),
    "the first question is unlike the later ones": Kind(
        "{% for m in messages %}{% if loop.first %}{{ 'Chat.\\n' }}{% else %}{{ '\\n' }}{% endif %}"
        "{{ m.role + ': ' + m.content }}{% endfor %}{{ '\\nassistant: ' }}",
        system=False,
        note="takes no system messages",
    ),
    "names that are not there": Kind(
        "{% if cls_token is defined %}{{ cls_token }}{% endif %}{% if sep_token %}{{ sep_token }}{% endif %}"
        "{{ mask_token | default('') }}{{ pad_token }}{% if custom is not defined %}{% set custom = none %}{% endif %}"
        "{% for m in messages %}{% if m.name %}{{ m.name }}{% endif %}{{ m.nickname }}" + CHATML_TURN + "{% endfor %}"
        "{% if never %}{% set empty = 'x' %}{% endif %}{{ empty }}" + CHATML_ASK
    ),
    "macros and namespaces": Kind(
        "{%- macro turn(role, text) -%}{{ '<|' ~ role ~ '|>' ~ text ~ eos_token }}{%- endmacro -%}"
        "{% set ns = namespace(count=0) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}"
        "{{ turn(m.role, m.content) }}{% if ns.count > 99 %}{% break %}{% endif %}{% endfor %}"
        "{{ '<|assistant|>' if add_generation_prompt else '' }}{{ ({'a': 1} | tojson)[:0] }}"
    ),
}

REFUSED = {
    "keeps the reasoning alone": (DROPS_REASONING.replace("[-1].lstrip('\\n')", "[0]"), "rewrites earlier answers"),
    "drops the reasoning of the first answer alone": (
        DROPS_REASONING.replace("not loop.last", "loop.index0 == 1"),
        "rewrites earlier answers",
    ),
    "keeps the last turns alone": (
        "{% for m in messages[-3:] %}" + CHATML_TURN + "{% endfor %}" + CHATML_ASK,
        "does more|drops",
    ),
    "drops earlier answers": (
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}" + CHATML_TURN + "{% endif %}{% endfor %}",
        "drops",
    ),
    "trims one end": (CHATML.replace("m['content']", "m['content'].rstrip()"), "trims white space"),
    "upper case": (CHATML.replace("m['content']", "m['content'] | upper"), "drops"),
    "inside a text": (CHATML.replace("m['content']", "m['content'] | replace('  ', ' ')"), "does more"),
    "counts turns": ("{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}", "does more"),
    "one message alone": ("{{ messages[0]['content'] }}", "drops"),
    "twice": ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "repeats"),
    "escaped": (CHATML.replace("m['content']", "m['content'] | e"), "does more|fails"),
    "a token that nobody knows": ("{{ image_token }}" + CHATML, "prints image_token, which no file"),
    "an attribute of what is not there": ("{{ nobody.name }}" + CHATML, "nobody. is undefined"),
    "no template": ("{% for m in messages %}", "does not parse"),
    "always refuses": ("{{ raise_exception('never') }}", "never"),
    "the class's attributes": ("{{ messages.__class__.__mro__ }}", "fails|drops"),
    "another process": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "fails"),
}

#: As Gemma 3's processor has it: each text of a message is trimmed by itself.
GEMMA4 = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|turn>' + role + '\n' }}{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
    "{% for item in m['content'] %}{% if item['type'] == 'image' %}{{ '\n\n<|image|>\n\n' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% if messages[0]['content'] is string %}"
    "{% set opening = messages[0]['content'] + '\n\n' %}{% else %}"
    "{% set opening = messages[0]['content'][0]['text'] + '\n\n' %}{% endif %}{% set rest = messages[1:] %}"
    "{% else %}{% set opening = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (opening if loop.first else '') }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for item in m['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}"
    "{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
