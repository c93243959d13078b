package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.KvFull
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.RandomAccessFile

/** Conversations of several turns; that answers are right is `AnswerTest`'s. */
class ConversationTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val case = lines("questions.jsonl").first { it.double("temperature") == 0.0 }
    private val bundle = File(case.text("bundle"))
    private val short = GenerationConfig(maxNewTokens = 6)

    @Test
    fun `an answer is regenerated, a question edited, and both as if asked at first`(): Unit = withModel(bundle) { model ->
        val fresh = model.chat()
        fresh.addImage(picture(case))
        val wanted = fresh.ask(case.text("question"), short)

        val chat = model.chat()
        chat.addImage(picture(case))
        chat.ask("Another question?", short)
        chat.ask("And one more?", short)
        val edited = chat.edit(0, case.text("question"), short).whole()
        assertEquals(wanted.tokenIds, edited.tokenIds)
        assertEquals(listOf(Role.USER, Role.ASSISTANT), chat.messages.value.map { it.role })
        val again = chat.regenerate(short).whole()
        assertEquals(wanted.tokenIds, again.tokenIds)
        assertEquals(again.stats.promptTokens - 1, again.stats.reusedTokens)
        assertRefused<ChatInvalid> { chat.edit(1, "no question", short).toList() }
        assertRefused<ChatInvalid> { model.chat().regenerate(short).toList() }
        assertEquals(2, chat.messages.value.size)
    }

    @Test
    fun `what is rewound is forgotten`(): Unit = withModel(bundle) { model ->
        val chat = model.chat(ChatConfig(system = "Be brief."))
        val first = chat.ask("What is it?", short)
        chat.ask("And that?", short)
        chat.rewind(4)
        assertEquals(listOf(Role.SYSTEM), chat.messages.value.map { it.role })
        assertEquals(first.tokenIds, chat.ask("What is it?", short).tokenIds)
        assertThrows(IllegalArgumentException::class.java) { chat.rewind(4) }
    }

    @Test
    fun `a conversation that is full is refused, or forgets its oldest turns`(): Unit = withModel(bundle) { model ->
        val long = "word ".repeat(model.info.kvLength / 3 / model.countTokens("word word"))
        val full = model.chat()
        full.ask(long, short)
        val before = full.messages.value
        assertRefused<KvFull> { repeat(5) { full.ask(long, short) } }
        assertTrue(full.messages.value.size >= before.size && full.messages.value.size % 2 == 0)

        val forgetful = model.chat(ChatConfig(system = "Be brief.", dropOldest = true))
        repeat(6) { forgetful.ask("$it $long", short) }
        assertEquals(Role.SYSTEM, forgetful.messages.value[0].role)
        assertTrue(forgetful.messages.value[1].text.first() > '0')
        assertTrue(forgetful.budget.used <= forgetful.budget.capacity)
    }

    @Test
    fun `a conversation is saved and goes on where it was, with its cache and without`() {
        val files = listOf(true, false).map { File(folder.root, "chat-$it") }
        val wanted = withModel(bundle) { model ->
            val chat = model.chat()
            chat.addImage(picture(case))
            chat.ask(case.text("question"), short)
            for ((file, withCache) in files.zip(listOf(true, false))) chat.save(file, withCache)
            chat.ask("What else is there?", short)
        }
        withModel(bundle) { model ->
            val (with, without) = files.map { model.restore(it) }
            assertEquals(wanted.tokenIds, with.ask("What else is there?", short).also { assertReused(it, wanted) }.tokenIds)
            val anew = without.ask("What else is there?", short)
            assertEquals(wanted.tokenIds, anew.tokenIds)
            assertEquals(0, anew.stats.reusedTokens)
            assertEquals(0.0, anew.stats.encodeSeconds, 0.0) // its tokens were saved
            // What was restored can be saved again.
            val copy = File(folder.root, "copy")
            model.restore(files[0]).save(copy)
            assertArrayEquals(files[0].readBytes(), copy.readBytes())
        }
        assertEquals(setOf("chat-true", "chat-false", "copy"), folder.root.list()?.toSet())
    }

    private fun assertReused(answer: Answer, like: Answer) = assertEquals(like.stats.reusedTokens, answer.stats.reusedTokens)

    @Test
    fun `a saved conversation that was changed anywhere is refused`() {
        val saved = File(folder.root, "chat")
        withModel(bundle) { model ->
            val chat = model.chat()
            chat.addImage(picture(case))
            chat.ask(case.text("question"), short)
            chat.save(saved)
            val whole = saved.readBytes()
            val places = (0 until 200).map { (whole.size.toLong() * it / 200).toInt() } + (0..120) + listOf(whole.size - 1)
            for (place in places) {
                RandomAccessFile(saved, "rw").use { file ->
                    file.seek(place.toLong())
                    file.write(whole[place].toInt() xor 0x41)
                }
                assertRefused<ChatInvalid> { model.restore(saved) }
                RandomAccessFile(saved, "rw").use { file ->
                    file.seek(place.toLong())
                    file.write(whole[place].toInt())
                }
            }
            for (length in listOf(0, 1, 40, whole.size / 2, whole.size - 1)) {
                saved.writeBytes(whole.copyOf(length))
                assertRefused<ChatInvalid> { model.restore(saved) }
            }
            saved.writeBytes(whole + 0)
            assertRefused<ChatInvalid> { model.restore(saved) }
            saved.writeBytes(whole)
            model.restore(saved)
        }
        val other = lines("questions.jsonl").map { File(it.text("bundle")) }.first { it != bundle }
        withModel(other) { model -> assertRefused<ChatInvalid> { model.restore(saved) } }
    }

    @Test
    fun `a picture is encoded from the moment it is added, and once`(): Unit = withModel(bundle) { model ->
        val chat = model.chat()
        val attachment = chat.addImage(picture(case))
        assertEquals(listOf(attachment), chat.attachments.value)
        val ready = attachment.state.first { it is Encoding.Ready } as Encoding.Ready
        assertTrue(ready.seconds > 0)
        val answer = chat.ask(case.text("question"), configOf(case))
        assertEquals(case.ints("ids"), answer.tokenIds)
        assertTrue(answer.stats.encodeWaitSeconds < ready.seconds)
        assertTrue(chat.attachments.value.isEmpty())
        val kept = model.chat().addImage(picture(case)).state.first { it is Encoding.Ready } as Encoding.Ready
        assertEquals(0.0, kept.seconds, 0.0)
    }

    @Test
    fun `a picture that is removed is no part of the question`(): Unit = withModel(bundle) { model ->
        val chat = model.chat()
        val attachment = chat.addImage(picture(case))
        attachment.remove()
        assertTrue(chat.attachments.value.isEmpty())
        attachment.state.first { it is Encoding.Removed }
        assertEquals(0, chat.ask("What is it?", short).stats.imageTokens)
        attachment.remove() // nothing happens
    }

    @Test
    fun `memory that is given back is taken again, with the same answers`() {
        val options = Options(threads = 1, keepVision = false, imageCacheBytes = 0)
        withModel(bundle, options) { model ->
            val chat = model.chat()
            for (turn in 0 until 3) {
                chat.rewind(chat.messages.value.size)
                chat.addImage(picture(case))
                assertEquals(case.ints("ids"), chat.ask(case.text("question"), configOf(case)).tokenIds)
                Trim.values().forEach(model::trimMemory)
            }
            val next = chat.ask("What else?", short)
            assertEquals(0, next.stats.reusedTokens)
        }
    }

    @Test
    fun `a picture prepared for one model is no other's`() {
        val other = lines("questions.jsonl").map { File(it.text("bundle")) }.first { it != bundle }
        val prepared = withModel(bundle) { model ->
            val chat = model.chat()
            chat.addImage(picture(case))
            chat.ask("What is it?", short)
            chat.messages.value[0].images[0].also { assertTrue(model.ask("What is it?", listOf(it), short).stats.imageTokens > 0) }
        }
        withModel(other) { model ->
            assertRefused<PocketVlmException.ImageUnusable> { model.ask("What is it?", listOf(prepared), short) }
        }
    }

    @Test
    fun `what is closed says so`() {
        withModel(bundle) { model ->
            val chat = model.chat()
            chat.close()
            assertRefused<Closed> { chat.ask("Hello", short) }
            assertRefused<Closed> { chat.addImage(picture(case)) }
            val other = model.chat()
            model.close()
            assertRefused<Closed> { other.ask("Hello", short) }
            assertRefused<Closed> { model.ask("Hello") }
            assertRefused<Closed> { model.chat() }
            assertRefused<Closed> { model.benchmark(8, 2, 1) }
        }
    }

    @Test
    fun `a bundle is inspected, previewed, measured and held to a budget`(): Unit = withModel(bundle) { model ->
        val info = PocketVlm.inspect(bundle, verify = true)
        assertEquals(info.sha256, model.info.sha256)
        assertTrue(info.seesImages && info.predictedMemoryBytes > info.kvLength)
        assertRefused<PocketVlmException.NoMemory> {
            PocketVlm.open(bundle, Options(memoryBudget = info.predictedMemoryBytes - 1))
        }
        val image = picture(case)
        val tiling = model.preview(image.width, image.height)
        val answer = model.ask(case.text("question"), listOf(image), short)
        assertEquals(tiling.tokens, answer.stats.imageTokens)
        assertEquals(tiling.columns * tiling.rows, tiling.areas.size)
        assertTrue(tiling.areas.all { it.left < it.right && it.right <= image.width && it.bottom <= image.height })
        val rates = model.benchmark(prompt = 40, tokens = 5, repeats = 3)
        assertEquals(3, rates.decodeTokensPerSecond.size)
        assertTrue(rates.prefillMedian > 0 && rates.decodeMedian > 0)
        assertFalse(model.countTokens("Hello, who are you?") == 0)
    }
}

/** That [work] fails with [E]. */
suspend inline fun <reified E : Throwable> assertRefused(crossinline work: suspend () -> Unit) {
    try {
        work()
    } catch (error: Throwable) {
        if (error is E) return
        throw error
    }
    throw AssertionError("${E::class.simpleName} was expected")
}
