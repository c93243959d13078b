package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.KvFull
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import org.junit.Test
import java.io.File

class AnswerTest {
    private val questions = lines("questions.jsonl")

    @Test
    fun `answers are Python's token for token, and leave nothing in the home directory`() {
        for ((bundle, cases) in questions.groupBy { it.text("bundle") }) withModel(File(bundle)) { model ->
            holdToAsync(cases, "ids", "text", "finish_reason") { case ->
                val answer = model.ask(case.text("question"), listOf(picture(case)), configOf(case))
                listOf(answer.tokenIds, answer.text, answer.stats.finishReason.toString().lowercase())
            }
        }
        // ONNX Runtime's telemetry would have left a database and a device id there.
        assertTrue(File(checkNotNull(System.getenv("HOME"))).walk().none { it.isFile })
    }

    @Test
    fun `a prompt that does not fit is refused, and the next one is answered`(): Unit = withModel(bundle) { model ->
        try {
            model.ask("word ".repeat(5000))
            fail()
        } catch (full: KvFull) {
            assertTrue(full.needed > 5000)
        }
        assertEquals(1, model.ask("Hello", generation = GenerationConfig(maxNewTokens = 1)).tokenIds.size)
    }

    @Test
    fun `a conversation computes only what is new, as Python's does`() {
        val files = checkNotNull(folder("cases").list { _, name -> name.startsWith("turns") && name.endsWith("jsonl") })
        assertTrue(files.joinToString(), files.size > 3)
        for (file in files) conversation(lines(file))
    }

    private fun conversation(turns: List<Case>) {
        withModel(File(turns[0].text("bundle"))) { model ->
            var chat = model.chat()
            holdToAsync(turns, "ids", "text", "reused") { case ->
                if (case["first"] == true) {
                    chat.close()
                    chat = model.chat()
                }
                if (case["file"] != null) chat.addImage(picture(case))
                val answer = chat.ask(case.text("question"), configOf(case))
                listOf(answer.tokenIds, answer.text, answer.stats.reusedTokens)
            }
        }
    }

    @Test
    fun `an answer that is cancelled ends within a run, and the next one is whole`(): Unit = withModel(bundle) { model ->
        val case = questions[0]
        val chat = model.chat()
        var cancelled = 0
        for (milliseconds in 0L until 120 step 5) {
            chat.rewind(chat.messages.value.size)
            chat.addImage(picture(case))
            val answer = kotlinx.coroutines.coroutineScope {
                val watch = launch {
                    delay(milliseconds)
                    chat.cancel()
                }
                chat.ask(case.text("question"), configOf(case)).also { watch.join() }
            }
            if (answer.stats.finishReason == FinishReason.CANCELLED) cancelled++
            assertEquals(case.ints("ids").take(answer.tokenIds.size), answer.tokenIds)
        }
        assertTrue("$cancelled", cancelled > 0)
        assertEquals(case.ints("ids"), model.ask(case.text("question"), listOf(picture(case)), configOf(case)).tokenIds)
    }

    @Test
    fun `a collector that goes away leaves in the conversation what it got`(): Unit = withModel(bundle) { model ->
        val case = questions[0]
        val chat = model.chat()
        chat.addImage(picture(case))
        val pieces = chat.stream(case.text("question"), configOf(case)).take(3).toList()
        assertEquals(case.ints("ids").take(3), pieces.map { it.tokenId })
        val (asked, answered) = chat.messages.value
        assertEquals(case.text("question"), asked.text)
        assertEquals(1, asked.images.size)
        assertEquals(pieces.joinToString("") { it.text }, answered.text)
    }

    @Test
    fun `an answer ends when its time is over`(): Unit = withModel(bundle) { model ->
        val answer = model.ask("Hello", generation = GenerationConfig(maxNewTokens = 2000, maxSeconds = 1e-3))
        assertEquals(FinishReason.DEADLINE, answer.stats.finishReason)
    }

    @Test
    fun `images for nothing are refused`(): Unit = withModel(bundle) { model ->
        val chat = model.chat(ChatConfig(history = listOf(Message(Role.ASSISTANT, "Hello"))))
        try {
            chat.ask("Hello")
            fail()
        } catch (invalid: ChatInvalid) {
            assertEquals(1, chat.messages.value.size)
        }
    }

    private val bundle: File get() = File(questions[0].text("bundle"))

    private suspend fun holdToAsync(cases: List<Case>, vararg keys: String, found: suspend (Case) -> List<Any?>) {
        val all = cases.associateWith { found(it) }
        holdTo(cases, *keys) { all.getValue(it) }
    }
}
