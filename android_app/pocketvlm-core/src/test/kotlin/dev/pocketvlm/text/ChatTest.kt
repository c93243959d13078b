package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.bundle.ChatSection
import dev.pocketvlm.bundle.Reader
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import dev.pocketvlm.holdTo
import org.junit.Test

class ChatTest {
    @Test
    fun `dialogues are laid out as Python does`() {
        val lines = folder("cases").resolve("dialogues.jsonl").readLines()
        holdTo(lines.map { Case(parseJson(it.toByteArray())) }, "spans") { case ->
            val layout = ChatSection(5).read(Reader(case["chat"]))
            listOf(spans(case) { spansOf(it, layout) })
        }
    }

    /** As the file has them: kind, and text or index; null where the messages are refused. */
    private fun spans(case: Case, lay: (List<ChatMessage>) -> List<Span>): List<List<Any>>? = try {
        val messages = case.list("messages").map { message ->
            val (role, content) = message as List<*>
            ChatMessage(role as String, (content as List<*>).map(::part))
        }
        lay(messages).map { span ->
            when (span) {
                is Span.Literal -> listOf("L", span.text)
                is Span.PeopleText -> listOf("P", span.text)
                is Span.Image -> listOf("I", span.index)
            }
        }
    } catch (error: ChatInvalid) {
        null
    }

    private fun part(value: Any?): Span = if (value is String) Span.PeopleText(value) else Span.Image((value as Long).toInt())
}
