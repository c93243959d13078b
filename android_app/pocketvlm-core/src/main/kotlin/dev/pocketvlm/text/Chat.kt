package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.bundle.Around
import dev.pocketvlm.bundle.ChatLayout
import dev.pocketvlm.bundle.Reasoning

/** A part of a prompt. */
internal sealed class Span {
    /** Text of the chat layout; special tokens in it are special. */
    class Literal(val text: String) : Span()

    /** Text that somebody wrote; nothing in it is special. */
    class PeopleText(val text: String) : Span()

    /** A picture where it stands: the one of this index. */
    class Image(val index: Int) : Span()
}

/** Who says it ([role]: system, user, assistant) and what: texts and images. */
internal class ChatMessage(val role: String, val content: List<Span>)

/** What Python's str.strip removes. */
internal val PYTHON_SPACE: Set<Char> = (WHITE_SPACE + "\u001c\u001d\u001e\u001f").toSet()

/**
 * The prompt that makes the assistant answer [messages]. A system message may come first; then user and assistant take
 * turns, from user to user: the order for which the export proved the literals equal to the chat template.
 *
 * @throws ChatInvalid the messages are in another order, or have images where none belong
 */
internal fun spansOf(messages: List<ChatMessage>, chat: ChatLayout): List<Span> {
    checkOrder(messages, chat)
    val spans = arrayListOf<Span>(Span.Literal(chat.start))
    val firstRole = messages[0].role
    if (chat.defaultSystem != null && firstRole != "system") {
        val role = chat.roles.getValue("system")
        for (text in listOf(role.prefix, chat.defaultSystem, role.suffix)) spans.add(Span.Literal(text))
    }
    messages.forEachIndexed { index, message ->
        val role = chat.roles.getValue(message.role)
        val joins = chat.systemJoins && message.role == "user" &&
            if (firstRole == "system") index == 1 else index == 0 && chat.defaultSystem != null
        var content = contentOf(message, chat)
        if (role.strip) content = if (chat.stripParts) content.map(::strippedPart) else stripped(content, start = !joins)
        val withImage = role.prefixWithImage.takeIf { content.firstOrNull() is Span.Image }
        spans.add(Span.Literal(withImage ?: role.prefix))
        spans.addAll(if (message.role == "user") question(content, chat) else content)
        spans.add(Span.Literal(role.suffix))
    }
    spans.add(Span.Literal(chat.generationPrefix))
    return spans
}

private fun checkOrder(messages: List<ChatMessage>, chat: ChatLayout) {
    for (message in messages) if (message.role !in chat.roles) {
        throw ChatInvalid("this model's chat layout knows ${chat.roles.keys.joinToString(", ")}, not ${message.role}")
    }
    val turns = if (messages.firstOrNull()?.role == "system") messages.drop(1) else messages
    if (turns.isEmpty()) throw ChatInvalid("there is no user message to answer")
    turns.forEachIndexed { index, message ->
        val wanted = if (index % 2 == 0) "user" else "assistant"
        if (message.role != wanted) {
            throw ChatInvalid("a message is the ${message.role}'s where the $wanted's belongs: they take turns")
        }
    }
    if (turns.last().role != "user") throw ChatInvalid("the last message must be the user's")
    if (chat.singleTurn && messages.size > 1) {
        throw ChatInvalid("this model answers one question and takes no second one: start anew with it")
    }
}

/** What a message says, in the order and without the reasoning that its chat layout wants. */
private fun contentOf(message: ChatMessage, chat: ChatLayout): List<Span> {
    val content = message.content
    if (message.role != "user" && content.any { it is Span.Image }) {
        throw ChatInvalid("images belong into user messages, not into one of the ${message.role}")
    }
    if (message.role == "assistant" && chat.reasoning != null) {
        val whole = content.joinToString("") { (it as Span.PeopleText).text }
        return listOf(Span.PeopleText(withoutReasoning(whole, chat.reasoning)))
    }
    return if (message.role == "user" && chat.imagesFirst) content.sortedBy { it !is Span.Image } else content
}

private fun withoutReasoning(answer: String, reasoning: Reasoning): String {
    val end = reasoning.end.orEmpty()
    val from = if (reasoning.end == null) 0 else answer.lastIndexOf(end)
    if (from < 0) return answer
    val trim = codePoints(reasoning.trim).toSet()
    return codePoints(answer.substring(from + end.length)).dropWhile { it in trim }.joinToString("")
}

private fun codePoints(text: String): List<String> = text.codePoints().toArray().map { String(Character.toChars(it)) }

/** The parts of a question with what the chat layout puts around each, between them and behind its images. */
private fun question(content: List<Span>, chat: ChatLayout): List<Span> {
    val parts = ArrayList<Span>()
    val images = content.count { it is Span.Image }
    content.forEachIndexed { at, part ->
        if (at > 0) chat.between?.let { parts.add(Span.Literal(it)) }
        if (at == images) chat.behindImages?.let { parts.add(Span.Literal(it)) }
        parts.addAll(shown(part, chat))
    }
    if (images == content.size) chat.behindImages?.let { parts.add(Span.Literal(it)) }
    return parts
}

/** A part of a question, with what the chat layout puts around it. */
private fun shown(part: Span, chat: ChatLayout): List<Span> {
    val around: Around = (if (part is Span.Image) chat.image else chat.text) ?: return listOf(part)
    return listOf(Span.Literal(around.prefix), part, Span.Literal(around.suffix))
}

/** Without white space at its ends, as Jinja's `trim` does to a text by itself. */
private fun strippedPart(part: Span): Span =
    if (part is Span.PeopleText) Span.PeopleText(part.text.trim { it in PYTHON_SPACE }) else part

/** Without white space at the ends of a message, at its [start] too, as Jinja's `trim` does to the whole of it. */
private fun stripped(content: List<Span>, start: Boolean): List<Span> {
    val parts = content.toMutableList()
    (parts.firstOrNull() as? Span.PeopleText)?.let { first ->
        if (start) parts[0] = Span.PeopleText(first.text.trimStart { it in PYTHON_SPACE })
    }
    (parts.lastOrNull() as? Span.PeopleText)?.let { last ->
        parts[parts.size - 1] = Span.PeopleText(last.text.trimEnd { it in PYTHON_SPACE })
    }
    return parts
}
